/**
 * People who edit documents, each with a client of their own, for tests in Python
 * (`tests/people.py`). A line of input is a command, `[name, argument]`, and is answered
 * by a line of output.
 */

import { createInterface } from "node:readline";
import { DatabaseSync } from "node:sqlite";
import * as Y from "yjs";
import { webSocket } from "../../src/index.js";
import { createRandom, read, textOf } from "../plain.js";
import { Person } from "./person.js";

interface Opening {
  url: string;
  /** The number of the first; the others follow it. */
  first: number;
  /** The document of each. */
  documents: string[];
  /** Words that each types before it connects. */
  before: number;
  /** Milliseconds between two words; 0 for none. */
  pause: number;
  token: string;
  /** Of attempts: where in its range each wait is; random if it is null. */
  wait: number | null;
}

const [seed = "1", database = ""] = process.argv.slice(2);
const random = createRandom(Number(seed));
const people: Person[] = [];

/** Milliseconds that all have to see what all have typed. */
const PATIENCE = 60_000;

/** The token of those who have none of their own. */
const tokens = { current: "" };

/** Let somebody come. */
function create(id: number, name: string, opening: Opening): Person {
  const { url, token, wait, before, pause } = opening;
  const person = new Person({
    id,
    name,
    client: {
      url,
      random: wait === null ? random : () => wait,
      // As an application does that asks its own server each time.
      token: () => Promise.resolve(token || tokens.current),
    },
    transports: [webSocket],
    random,
    kept: keptWords,
  });
  for (let word = 0; word < before; word += 1) person.type();
  person.pause(pause);
  person.client.connect();
  return person;
}

/** The words of a document in the server's database, at this moment. */
function keptWords(name: string): Set<string> | null {
  if (database === "") return null;
  const log = new DatabaseSync(database, { readOnly: true });
  try {
    const rows = log
      .prepare("SELECT data FROM updates JOIN documents ON document_id = id WHERE name = ?")
      .all(name) as { data: Uint8Array }[];
    const doc = new Y.Doc();
    for (const { data } of rows) Y.applyUpdate(doc, data);
    return new Set(textOf(doc).toString().match(/<[^>]+>/g));
  } finally {
    log.close();
  }
}

/** Wait until something is so for everybody; return of whom it isn't, after some time. */
async function until(
  holds: (person: Person) => boolean,
  limit = Infinity,
): Promise<Person[]> {
  const end = performance.now() + limit;
  for (;;) {
    const others = people.filter((person) => !holds(person));
    if (others.length === 0 || performance.now() > end) return others;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

const commands: Record<string, (argument: never) => unknown> = {
  open: (opening: Opening) => {
    for (const [index, name] of opening.documents.entries()) {
      people.push(create(opening.first + index, name, opening));
    }
  },
  type: (count: number) => {
    for (const person of people) for (let word = 0; word < count; word += 1) person.type();
  },
  rest: () => people.forEach((person) => person.pause(0)),
  token: (token: string) => (tokens.current = token),
  retry: () => people.forEach(({ document }) => document.retry()),
  synced: () => until(({ document }) => document.synced),
  unsynced: () => until(({ document }) => !document.synced),
  saved: () => until(({ document }) => document.saved),
  status: (status: string) => until(({ document }) => document.status === status),
  advance: async () => {
    const before = new Map(people.map((person) => [person, person.typed]));
    await until((person) => person.acked > before.get(person)!);
  },
  texts: async (texts: Record<string, string>) => {
    const expected = ({ document }: Person): boolean =>
      read(document) === texts[document.name];
    return (await until(expected, PATIENCE)).map((person) => person.report());
  },
  report: () => people.map((person) => person.report()),
  leave: () => people.splice(0).forEach((person) => person.leave()),
};

for await (const line of createInterface(process.stdin)) {
  const [name, argument] = JSON.parse(line) as [string, never];
  const answer = (await commands[name]!(argument)) ?? null;
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
process.exit();
