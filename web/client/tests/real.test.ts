/**
 * Against the real server, in real time: `collab serve` of this checkout, killed at any
 * moment. `REAL_SEED=7` tries what failed again.
 */

import { spawn, type ChildProcess } from "node:child_process";
import { createHmac } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import {
  CollabClient,
  CollabDocument,
  httpStream,
  longPolling,
  serverSentEvents,
  webSocket,
  type ClientOptions,
  type Transport,
} from "../src/index.js";
import { createRandom, read, textOf, type } from "./world.js";

const python = fileURLToPath(new URL("../../../.venv/bin/python", import.meta.url));
const seed = Number(process.env["REAL_SEED"] ?? Date.now() % 100_000);

/** The longest that anything may take on a busy machine, in milliseconds. */
const PATIENCE = { timeout: 30_000, interval: 20 };

/** Who may do what: some may only read. */
const RULES = `
from collab import Access, Grant

async def authorize(attempt):
    may_read = attempt.token == "reader"
    return Grant(attempt.token, Access.READ if may_read else Access.WRITE)
`;

let transport: Transport = webSocket;
let folder: string;
let server: ChildProcess;
let port: number;
const clients: CollabClient[] = [];

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "collab-client-"));
  writeFileSync(join(folder, "rules.py"), RULES);
  port = 0;
  await start();
});

afterEach(async () => {
  for (const client of clients.splice(0)) client.destroy();
  await kill();
  rmSync(folder, { recursive: true });
});

/** Start the server; later times on the same port, with what is on disk. */
async function start(settings: Record<string, string> = {}): Promise<void> {
  const options = ["--port", String(port), "--database", `sqlite:///${folder}/collab.db`];
  if (Object.keys(settings).length === 0) options.push("--authorize", "rules:authorize");
  server = spawn(python, ["-m", "collab", "serve", ...options], {
    stdio: ["ignore", "pipe", "ignore"],
    env: { ...process.env, PYTHONPATH: folder, ...settings },
  });
  const [line] = (await once(createInterface(server.stdout!), "line")) as [string];
  port = Number(/:(\d+)\//.exec(line)![1]);
}

async function kill(): Promise<void> {
  if (server.exitCode !== null || server.signalCode !== null) return;
  server.kill("SIGKILL");
  await once(server, "exit");
}

function connect(options: Partial<ClientOptions> = {}): CollabClient {
  const url = `ws://127.0.0.1:${port}/ws`;
  const client = new CollabClient({ url, transport, ...options });
  clients.push(client);
  return client;
}

async function open(name: string, client = connect()): Promise<CollabDocument> {
  const document = new CollabDocument(client, name);
  await document.whenSynced;
  return document;
}

function until(holds: () => boolean): Promise<void> {
  return vi.waitFor(() => expect(holds()).toBe(true), PATIENCE);
}

describe.each([webSocket, httpStream, serverSentEvents, longPolling])("$name", (one) => {
  beforeEach(() => {
    transport = one;
  });

  it("an edit is saved, reaches the others, and outlives the server", async () => {
    const one = await open("doc");
    const two = await open("doc");
    type(one, "hello");
    await one.whenSaved();
    await until(() => read(two) === "hello");
    await kill();
    await until(() => one.status === "waiting");
    type(one, " again");
    expect(one.saved).toBe(false);
    await start();
    await one.whenSaved();
    await until(() => read(two) === "hello again");
    const three = await open("doc");
    expect(read(three)).toBe("hello again");
  });

  it("a server that stops in good order is come back to", async () => {
    const one = await open("doc");
    const two = await open("doc");
    type(one, "a");
    await one.whenSaved();
    server.kill("SIGTERM");
    await once(server, "exit");
    type(one, "b");
    await start();
    await one.whenSaved();
    await until(() => read(two) === "ab");
  });

  it("many documents share a connection", async () => {
    const client = connect();
    const names = Array.from({ length: 50 }, (_, number) => `many/${number}`);
    const documents = await Promise.all(names.map((name) => open(name, client)));
    for (const document of documents) type(document, document.name);
    await Promise.all(documents.map((document) => document.whenSaved()));
    const others = await Promise.all(names.map((name) => open(name)));
    expect(others.map(read)).toEqual(names);
  });

  it("a large document arrives in pieces, with progress", async () => {
    const one = await open("large");
    const text = "All work and no play makes Jack a dull boy. ".repeat(20);
    for (let part = 0; part < 1_500; part += 1) type(one, text);
    await one.whenSaved();
    const two = new CollabDocument(connect(), "large");
    const progress: number[] = [];
    two.on("progress", (value) => progress.push(value));
    await two.whenSynced;
    expect(textOf(two.doc).length).toBe(text.length * 1_500);
    expect(progress.at(-1)).toBe(1);
    expect(progress).toEqual([...progress].sort((left, right) => left - right));
  });

  it("people see each other, and are gone when they leave", async () => {
    const one = await open("doc");
    const two = await open("doc");
    one.awareness.setLocalState({ name: "Ada" });
    const id = one.awareness.clientID;
    await until(() => two.awareness.getStates().get(id)?.["name"] === "Ada");
    one.destroy();
    await until(() => !two.awareness.getStates().has(id));
  });

  it("a message reaches the others", async () => {
    const one = await open("doc");
    const two = await open("doc");
    const got: number[][] = [];
    two.on("message", (payload) => got.push([...payload]));
    // It is delivered now or never, and between two polls nobody listens.
    await until(() => one.send(new Uint8Array([1, 2, 255])) && got.length > 0);
    expect(got[0]).toEqual([1, 2, 255]);
  });

  it("access ends with its token, unless there is another one", async () => {
    const secret = "a secret that has thirty-two bytes, or more";
    /** A token with which access ends in so many seconds; the server adds ten. */
    const mint = (seconds: number): string => {
      const spell = (part: object) => Buffer.from(JSON.stringify(part)).toString("base64url");
      const exp = Math.floor(Date.now() / 1_000) - 10 + seconds;
      const claims = { sub: "ann", documents: { doc: "write" }, exp };
      const signed = `${spell({ alg: "HS256" })}.${spell(claims)}`;
      return `${signed}.${createHmac("sha256", secret).update(signed).digest("base64url")}`;
    };
    await kill();
    await start({ COLLAB_JWT_SECRET: secret });
    let minted = 0;
    let away = 0;
    const renew = (): string => {
      minted += 1;
      return mint(4);
    };
    const asked = await open("doc", connect({ token: renew }));
    asked.on("status", () => (away += 1));
    const client = connect({ token: mint(4) });
    const fixed = await open("doc", client);
    await until(() => fixed.status === "closed");
    expect(fixed.error).toMatchObject({ code: 4403, reason: "access has expired" });
    await until(() => minted > 3);
    expect(away).toBe(0);
    type(asked, "still here");
    type(fixed, "and back, ");
    client.setToken(mint(600));
    await Promise.all([asked.whenSaved(), fixed.whenSaved()]);
    await until(() => read(fixed) === read(asked));
    expect(read(fixed)).toContain("and back");
  });

  it("the way to the server can be measured", async () => {
    const client = connect();
    await open("doc", client);
    expect(await client.ping()).toBeGreaterThan(0);
  });

  it("what was written offline is merged", async () => {
    const client = connect();
    const one = await open("doc", client);
    const two = await open("doc");
    type(one, "a");
    await until(() => read(two) === "a");
    client.disconnect();
    type(one, "b");
    type(two, "c");
    await two.whenSaved();
    expect(one.saved).toBe(false);
    client.connect();
    await one.whenSaved();
    await until(() => read(one).length === 3 && read(one) === read(two));
  });

  it("another token is another right", async () => {
    const client = connect({ token: "reader" });
    const one = await open("doc", client);
    expect(one.access).toBe("read");
    const refused: string[] = [];
    one.on("refused", (reason) => refused.push(reason));
    type(one, "a");
    client.setToken("writer");
    await until(() => one.access === "write");
    await one.whenSaved();
    expect(read(await open("doc", connect({ token: "writer" })))).toBe("a");
    client.setToken("reader");
    await until(() => one.access === "read");
  });

  it("documents are opened and closed beside each other", async () => {
    const client = connect();
    const one = await open("one", client);
    const two = await open("two", client);
    const watcher = await open("two");
    two.awareness.setLocalState({ name: "Ada" });
    const id = two.awareness.clientID;
    await until(() => watcher.awareness.getStates().has(id));
    two.destroy();
    await until(() => !watcher.awareness.getStates().has(id));
    type(one, "on");
    await one.whenSaved();
    expect(read(await open("one"))).toBe("on");
  });

  it(`saved never lies while the server is killed (seed ${seed})`, async () => {
    const random = createRandom(seed);
    const pick = (count: number): number => Math.floor(random() * count);
    const writers = await Promise.all([1, 2, 3].map(() => open("doc")));
    let words = 0;
    /** The words that were in a document which said that all of them are saved. */
    const promised = new Set<string>();
    for (const document of writers) {
      const own = new Set<string>();
      document.doc.on("update", (_: Uint8Array, origin: unknown) => {
        if (origin === document) return;
        for (const word of read(document).match(/<\d+>/g) ?? []) own.add(word);
      });
      document.on("saved", (saved) => {
        if (saved) for (const word of own) promised.add(word);
      });
    }
    for (let kills = 0; kills < 4; kills += 1) {
      for (let edit = 0; edit < 40; edit += 1) {
        const text = textOf(writers[pick(3)]!.doc);
        words += 1;
        // Between words, so that each stays whole.
        const gaps = [...text.toString().matchAll(/(?<=>)|^/g)].map(({ index }) => index);
        text.insert(gaps[pick(gaps.length)]!, `<${words}>`);
        await new Promise((resolve) => setTimeout(resolve, pick(15)));
      }
      await kill();
      const before = new Set(promised);
      await start();
      const reader = await open("doc", connect());
      const kept = new Set(read(reader).match(/<\d+>/g));
      expect([...before].filter((word) => !kept.has(word)), `seed ${seed}`).toEqual([]);
      reader.destroy();
    }
    await Promise.all(writers.map((document) => document.whenSaved()));
    await until(() => writers.every(({ synced }) => synced));
    await until(() => writers.every((document) => read(document) === read(writers[0]!)));
    const all = read(writers[0]!).match(/<\d+>/g) ?? [];
    expect(all.length).toBe(words);
    expect(new Set(all).size).toBe(words);
  });
});
