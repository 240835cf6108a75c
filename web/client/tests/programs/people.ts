/**
 * People who edit documents, each with a client of their own, for tests in Python
 * (`tests/people.py`). A line of input is a command, `[name, argument]`, and is answered
 * by a line of output.
 *
 * What they type are words, `<person-number>`, between words of others. They note when
 * they were without service, when they tried to connect, and whether `saved` lied.
 */

import { createInterface } from "node:readline";
import { DatabaseSync } from "node:sqlite";
import * as Y from "yjs";
import { CollabClient, CollabDocument } from "../../src/index.js";
import { webSocket, type Carrier, type Transport } from "../../src/transport.js";
import { createRandom, read, textOf } from "../plain.js";

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

class Person {
  readonly client: CollabClient;
  readonly document: CollabDocument;
  typed = 0;
  acked = 0;
  /** What was not in the database although it was said to be saved. */
  readonly lies: string[] = [];
  /** From when to when it was not synced, after the first time that it was. */
  readonly gaps: [from: number, to: number][] = [];
  /** When it tried to connect, and whether it was synced meanwhile. */
  readonly attempts: [at: number, synced: boolean][] = [];
  readonly refusals: string[] = [];
  private readonly id: number;
  private lost: number | null = null;
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(id: number, name: string, opening: Opening) {
    this.id = id;
    const { url, token, wait } = opening;
    this.client = new CollabClient({
      url,
      connect: false,
      random: wait === null ? random : () => wait,
      transport: this.watch(webSocket),
      // As an application does that asks its own server each time.
      token: () => Promise.resolve(token || tokens.current),
    });
    this.document = new CollabDocument(this.client, name);
    this.document.on("saved", (saved) => {
      if (saved) this.wasSaved();
    });
    this.document.on("synced", (synced) => {
      if (!synced) this.lost = Date.now();
      else if (this.lost !== null) {
        this.gaps.push([this.lost, Date.now()]);
        this.lost = null;
      }
    });
    this.document.on("refused", (reason) => this.refusals.push(reason));
    for (let word = 0; word < opening.before; word += 1) this.type();
    this.pause(opening.pause);
    this.client.connect();
  }

  get words(): string[] {
    return Array.from({ length: this.typed }, (_, number) => `<${this.id}-${number + 1}>`);
  }

  type(): void {
    const text = textOf(this.document.doc);
    const content = text.toString();
    // Between words, so that each stays whole.
    const at = content.lastIndexOf(">", Math.floor(random() * content.length)) + 1;
    this.typed += 1;
    text.insert(at, `<${this.id}-${this.typed}>`);
  }

  pause(pause: number): void {
    clearTimeout(this.timer);
    if (pause === 0) return;
    this.timer = setTimeout(
      () => {
        this.type();
        this.pause(pause);
      },
      pause * (0.5 + random()),
    );
  }

  report(): object {
    const { document, client, typed, acked, lies, gaps, attempts, refusals } = this;
    const { status, saved, synced, error, name, access } = document;
    const text = read(document);
    const { transportName } = client;
    const { pendingStructs, pendingDs } = document.doc.store;
    const pending = pendingStructs !== null || pendingDs !== null;
    const outcome = { lies, gaps, attempts, refusals, lost: this.lost, pending, transportName };
    return { id: this.id, name, status, saved, synced, error, access, text, typed, acked, ...outcome };
  }

  leave(): void {
    clearTimeout(this.timer);
    this.client.destroy();
  }

  private wasSaved(): void {
    this.acked = this.typed;
    if (database !== "") {
      const kept = keptWords(this.document.name);
      this.lies.push(...this.words.filter((word) => !kept.has(word)));
    }
  }

  private watch(transport: Transport): Transport {
    return {
      name: transport.name,
      open: (url, handlers): Carrier => {
        this.attempts.push([Date.now(), this.document.synced]);
        return transport.open(url, handlers);
      },
    };
  }
}

/** The token of those who have none of their own. */
const tokens = { current: "" };

/** The words of a document in the server's database, at this moment. */
function keptWords(name: string): Set<string> {
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
      people.push(new Person(opening.first + index, name, opening));
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
