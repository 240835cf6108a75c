/** Connections over HTTP, with a server in memory and time that stands still. */

import { beforeEach, describe, expect, it, vi } from "vitest";
import * as encoding from "lib0/encoding";
import * as Y from "yjs";
import { CollabDocument, httpStream, longPolling, serverSentEvents } from "../src/index.js";
import { readAddress } from "../src/http.js";
import { HttpServer } from "./http.js";
import { live, seeds } from "./lives.js";
import { Server } from "./server.js";
import {
  connect,
  createRandom,
  openDocument,
  pass,
  read,
  textOf,
  type,
  useVirtualTime,
} from "./world.js";

useVirtualTime();

const transports = [httpStream, serverSentEvents, longPolling];

let server: Server;
let http: HttpServer;

beforeEach(() => {
  server = new Server();
  http = new HttpServer(server);
  vi.stubGlobal("fetch", http.fetch);
  return () => vi.unstubAllGlobals();
});

function modes(): string[] {
  return http.asked.map(({ mode }) => mode);
}

describe.each(transports)("$name", (transport) => {
  const by = { client: { transport } };

  it("an edit is saved and reaches others", async () => {
    const one = await openDocument(server, "doc", by);
    const two = await openDocument(server, "doc", by);
    expect(one.synced).toBe(true);
    type(one, "hello");
    expect(one.saved).toBe(false);
    await pass(200);
    expect(one.saved).toBe(true);
    expect(read(two)).toBe("hello");
    expect(textOf(server.room("doc").disk).toString()).toBe("hello");
  });

  it("what is there arrives, and what comes is not asked for again", async () => {
    server.edit("doc", (doc) => textOf(doc).insert(0, "before"));
    const one = await openDocument(server, "doc", by);
    expect(read(one)).toBe("before");
    server.edit("doc", (doc) => textOf(doc).insert(0, "and "));
    await pass(200);
    expect(read(one)).toBe("and before");
    await pass(120_000);
    expect(one.synced).toBe(true);
    expect(server.lines.length).toBe(1);
  });

  it("a quiet minute costs a few requests at most", async () => {
    const one = await openDocument(server, "doc", by);
    type(one, "hello");
    await pass(1_000);
    const before = http.asked.length;
    await pass(60_000);
    // Polls of 25 seconds, and presence every 15.
    expect(http.asked.length - before).toBeLessThanOrEqual(8);
    expect(one.status).toBe("connected");
  });

  it("an edit is not saved before it is on disk", async () => {
    server.commits = false;
    const one = await openDocument(server, "doc", by);
    type(one, "a");
    await pass(30_000);
    expect(one.saved).toBe(false);
    expect(one.status).toBe("connected");
    type(one, "b");
    await pass(30_000);
    expect(one.saved).toBe(false);
    server.commit();
    await pass(30_000);
    expect(one.saved).toBe(true);
    expect(textOf(server.room("doc").disk).toString()).toBe("ab");
  });

  it("people see each other, and are gone when they leave", async () => {
    const one = await openDocument(server, "doc", by);
    const two = await openDocument(server, "doc", by);
    one.awareness.setLocalState({ name: "Ada" });
    await pass(300);
    const id = one.awareness.clientID;
    expect(two.awareness.getStates().get(id)).toEqual({ name: "Ada" });
    await pass(60_000);
    expect(two.awareness.getStates().get(id)).toEqual({ name: "Ada" });
    one.destroy();
    await pass(300);
    expect(two.awareness.getStates().has(id)).toBe(false);
  });

  it("whoever comes later sees who is here", async () => {
    const one = await openDocument(server, "doc", by);
    one.awareness.setLocalState({ name: "Ada" });
    await pass(300);
    const two = await openDocument(server, "doc", by);
    expect(two.awareness.getStates().get(one.awareness.clientID)).toEqual({ name: "Ada" });
  });

  it("a message is delivered", async () => {
    const one = await openDocument(server, "doc", by);
    const two = await openDocument(server, "doc", by);
    const got: number[][] = [];
    two.on("message", (payload) => got.push([...payload]));
    expect(one.send(new Uint8Array([1, 2]))).toBe(true);
    await pass(200);
    expect(got).toEqual([[1, 2]]);
  });

  it("another token is pushed, and shown by listening anew", async () => {
    const client = connect(server, { transport, token: "old" });
    const one = new CollabDocument(client, "doc");
    await pass(200);
    client.setToken("new");
    await pass(200);
    expect(server.line.heard).toContain("token new");
    expect(server.line.heard).toContain("resume doc new");
    expect(one.synced).toBe(true);
  });

  it("documents that are opened together are one request", async () => {
    const client = connect(server, { transport });
    const documents = ["a", "b", "c"].map((name) => new CollabDocument(client, name));
    await pass(100);
    expect(documents.every(({ synced }) => synced)).toBe(true);
    // Behind them comes who is here: of the first that was opened, and of all others.
    expect(modes().filter((mode) => mode === "push").length).toBeLessThanOrEqual(2);
    const opens = http.asked[0]!.messages.filter(({ type }) => type === "Open");
    expect(opens).toHaveLength(3);
  });

  it("another document is opened on the same connection, and closed", async () => {
    const client = connect(server, { transport });
    const one = new CollabDocument(client, "a");
    await pass(200);
    const two = new CollabDocument(client, "b");
    await pass(2_000);
    expect(two.synced).toBe(true);
    expect(server.lines).toHaveLength(1);
    two.destroy();
    await pass(2_000);
    const last = http.asked.filter(({ mode }) => mode !== "push").at(-1)!;
    expect(last.messages.flatMap((one) => (one.type === "Resume" ? [one.name] : []))).toEqual([
      "a",
    ]);
    expect(server.room("b").states.size).toBe(0);
    type(one, "on");
    await pass(200);
    expect(one.saved).toBe(true);
  });

  it("the way to the server is measured, also while its disk is slow", async () => {
    const one = await openDocument(server, "doc", by);
    server.commits = false;
    type(one, "a");
    await pass(100);
    const { client } = one as unknown as { client: { ping(): Promise<number | null> } };
    const delay = client.ping();
    await pass(1_000);
    expect(await delay).toBeGreaterThan(0);
  });

  it("a restart loses nothing", async () => {
    const one = await openDocument(server, "doc", by);
    const two = await openDocument(server, "doc", by);
    type(one, "a");
    await pass(200);
    server.mode = "down";
    server.crash();
    await pass(10_000);
    expect(one.status).toBe("waiting");
    type(one, "b");
    type(two, "c");
    server.mode = "up";
    await pass(60_000);
    expect(one.saved && two.saved && one.synced && two.synced).toBe(true);
    expect(read(one)).toBe(read(two));
    expect([...read(one)].sort().join("")).toBe("abc");
  });

  it("one lost request is not noticed", async () => {
    const one = await openDocument(server, "doc", by);
    const statuses: string[] = [];
    one.on("status", (status) => statuses.push(status));
    server.crash();
    await pass(5_000);
    type(one, "a");
    await pass(1_000);
    expect(one.saved).toBe(true);
    expect(statuses).toEqual([]);
  });

  it("whoever the server has forgotten is seen again", async () => {
    const one = await openDocument(server, "doc", by);
    const two = await openDocument(server, "doc", by);
    one.awareness.setLocalState({ name: "Ada" });
    await pass(300);
    const id = one.awareness.clientID;
    server.crash();
    await pass(5_000);
    expect(two.awareness.getStates().get(id)).toEqual({ name: "Ada" });
    expect(two.awareness.meta.get(id)!.clock).toBe(one.awareness.meta.get(id)!.clock);
    expect(server.room("doc").states.has(id)).toBe(true);
  });

  it("what others wrote and the server lost is told to it", async () => {
    server.commits = false;
    const one = await openDocument(server, "doc", by);
    const two = await openDocument(server, "doc", by);
    type(one, "a");
    await pass(200);
    expect(read(two)).toBe("a");
    one.destroy();
    server.commits = true;
    server.crash();
    await pass(60_000);
    expect(textOf(server.room("doc").disk).toString()).toBe("a");
    expect(two.saved).toBe(true);
  });

  it("another document under the same name is opened anew", async () => {
    const one = await openDocument(server, "doc", by);
    type(one, "a");
    await pass(200);
    server.room("doc").epoch = "e2";
    server.room("doc").log = [];
    server.room("doc").doc = new Y.Doc();
    server.crash();
    await pass(10_000);
    expect(one.synced).toBe(true);
    expect(one.saved).toBe(true);
    expect(textOf(server.room("doc").disk).toString()).toBe("a");
  });

  it("a clock that is set back holds up nothing", async () => {
    const one = await openDocument(server, "doc", by);
    vi.setSystemTime(Date.now() - 3_600_000);
    server.crash();
    await pass(30_000);
    server.edit("doc", (doc) => textOf(doc).insert(0, "a"));
    await pass(1_000);
    expect(read(one)).toBe("a");
  });

  it("a server that is silent is given up", async () => {
    const one = await openDocument(server, "doc", by);
    server.mode = "silent";
    for (const line of server.lines) line.dead = true;
    type(one, "a");
    await pass(90_000);
    expect(one.synced).toBe(false);
    server.mode = "up";
    await pass(60_000);
    expect(one.saved).toBe(true);
  });

  it("a server that ends it says what to do", async () => {
    const one = await openDocument(server, "doc", by);
    server.line.send(0, 3, (to) => {
      encoding.writeVarUint(to, 4403);
      encoding.writeVarString(to, "no more");
    });
    await pass(1_000);
    expect(one.status).toBe("closed");
    expect(one.error).toEqual({ code: 4403, reason: "no more", final: true });
    const before = http.asked.length;
    await pass(60_000);
    expect(http.asked.length).toBe(before);
  });

  it("an answer that is final is told, and others are tried again", async () => {
    http.instead = { status: 404, type: "text/plain", text: "There is no such thing here." };
    const one = await openDocument(server, "doc", by);
    expect(one.error).toEqual({
      code: 4404,
      reason: "There is no such thing here.",
      final: true,
    });
    http.instead = { status: 200, type: "text/html", text: "<h1>Sign in</h1>" };
    const two = await openDocument(server, "doc", by);
    await pass(10_000);
    expect(two.error?.final).toBe(false);
    http.instead = null;
    await pass(30_000);
    expect(two.synced).toBe(true);
  });

  it("who is asked to wait longer waits longer", async () => {
    const one = await openDocument(server, "doc", by);
    http.instead = {
      status: 503,
      type: "text/plain",
      text: "later",
      headers: { "retry-after": "7" },
    };
    const before = http.asked.length;
    server.crash();
    await pass(6_000);
    expect(http.asked.length).toBeLessThanOrEqual(before + 2);
    http.instead = null;
    await pass(15_000);
    expect(one.synced).toBe(true);
  });

  it("the page says goodbye, with what was not said", async () => {
    const one = await openDocument(server, "doc", by);
    one.awareness.setLocalState({ name: "Ada" });
    await pass(300);
    type(one, "last words");
    const hidden = one as unknown as { client: { disconnect(): void } };
    hidden.client.disconnect();
    await pass(300);
    expect(textOf(server.room("doc").disk).toString()).toBe("last words");
    expect(server.room("doc").states.size).toBe(0);
    // Nobody has heard the answer.
    expect(one.saved).toBe(false);
  });
});

describe.each(transports)("at 20 % loss, by $name", (transport) => {
  it.each(seeds)("nothing is lost, doubled or said too early: seed %i", async (seed) => {
    const random = createRandom(seed);
    const open = (): CollabDocument =>
      new CollabDocument(connect(server, { transport, random }), "doc");
    await live(server, http, random, open);
  });
});

describe("on the way", () => {
  it("somebody who ends what is quiet makes polls shorter, and slowly longer", async () => {
    http.patience = 10_000;
    const one = await openDocument(server, "doc", { client: { transport: longPolling } });
    const statuses: string[] = [];
    one.on("status", (status) => statuses.push(status));
    await pass(120_000);
    expect(statuses).toEqual([]);
    const waits = http.asked.filter(({ mode }) => mode === "poll").map(({ wait }) => wait);
    expect(waits).toContain(25);
    // First a brief one, as nothing is pushed before its answer.
    expect(waits.slice(waits.lastIndexOf(25) + 1).slice(0, 2)).toEqual([3, 5]);
    expect(waits.at(-1)).toBeLessThan(8);
    http.patience = Infinity;
    await pass(400_000);
    expect(http.asked.filter(({ mode }) => mode === "poll").at(-1)!.wait).toBeGreaterThan(8);
  });

  it("somebody who keeps back polls holds up nothing that is said", async () => {
    http.buffered = new Set(["poll"]);
    const one = await openDocument(server, "doc", { client: { transport: longPolling } });
    await pass(1_000);
    type(one, "a");
    await pass(200);
    expect(one.saved).toBe(true);
    server.crash();
    type(one, "b");
    await pass(6_000);
    expect(one.saved).toBe(true);
  });

  it("polls that end at once are not a storm", async () => {
    http.restless = true;
    await openDocument(server, "doc", { client: { transport: longPolling } });
    await pass(2_000);
    const before = http.asked.length;
    await pass(10_000);
    expect(http.asked.length - before).toBeLessThan(60);
  });

  it("a browser without streams polls", async () => {
    http.streams = false;
    const one = await openDocument(server, "doc", { client: { transport: longPolling } });
    server.edit("doc", (doc) => textOf(doc).insert(0, "news"));
    await pass(200);
    expect(read(one)).toBe("news");
  });
});

it.each([
  ["wss://example.org/ws", "https://example.org/api/sync"],
  ["ws://localhost:8000/collab/ws", "http://localhost:8000/collab/api/sync"],
  ["https://example.org/ws?a=b", "https://example.org/api/sync?a=b"],
  ["https://example.org/elsewhere", "https://example.org/elsewhere"],
])("the address for %s is %s", (url, address) => {
  expect(readAddress(url).href).toBe(address);
});
