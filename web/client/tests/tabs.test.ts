/** Tabs that are objects of one process: locks and channels are Node's own, in real time. */

import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import {
  CollabClient,
  CollabDocument,
  httpStream,
  longPolling,
  serverSentEvents,
  type ClientOptions,
  type Transport,
} from "../src/index.js";
import { createTabs, type SharedTabs } from "../src/tabs.js";
import { HttpServer } from "./http.js";
import { Server } from "./server.js";
import { read, textOf, type } from "./world.js";
import * as encoding from "lib0/encoding";

interface Tab {
  tabs: SharedTabs;
  client: CollabClient;
  document: CollabDocument;
}

type Transports = NonNullable<ClientOptions["transport"]>;

const opened: Tab[] = [];
let group = 0;

afterEach(() => {
  for (const tab of opened.splice(0)) close(tab);
  group += 1;
});

function open(server: Server, name = "doc", transport: Transports = server.transport): Tab {
  const tabs = createTabs({ group: String(group) });
  const client = new CollabClient({
    url: "ws://test/ws",
    transport,
    tabs,
    random: () => 0,
  });
  const tab = { tabs, client, document: new CollabDocument(client, name) };
  opened.push(tab);
  return tab;
}

/** Close a tab without a word, as browsers do. */
function close({ tabs, client }: Tab): void {
  tabs.destroy();
  client.destroy();
}

function until(holds: () => boolean): Promise<void> {
  return vi.waitFor(() => expect(holds()).toBe(true), { timeout: 8_000, interval: 10 });
}

function createServer(): Server {
  const server = new Server();
  server.latency = 1;
  return server;
}

/** The connections that are alive. */
function alive(server: Server): number {
  return server.lines.filter(({ over }) => !over).length;
}

describe("tabs", () => {
  it("share one connection", async () => {
    const server = createServer();
    const tabs = [open(server), open(server), open(server, "other")];
    await until(() => tabs.every(({ document }) => document.synced));
    expect(server.lines.length).toBe(1);
    type(tabs[1]!.document, "hello");
    await until(() => read(tabs[0]!.document) === "hello" && tabs[1]!.document.saved);
    expect(textOf(server.room("doc").disk).toString()).toBe("hello");
    expect(read(tabs[2]!.document)).toBe("");
    expect(server.line.heard.filter((word) => word.startsWith("hello"))).toHaveLength(1);
  });

  it("are saved each for itself", async () => {
    const server = createServer();
    const [one, two] = [open(server), open(server)];
    await until(() => one.document.synced && two.document.synced);
    server.commits = false;
    type(two.document, "x");
    await until(() => read(one.document) === "x");
    expect(two.document.saved).toBe(false);
    expect(one.document.saved).toBe(true);
    server.commit();
    await until(() => two.document.saved);
  });

  it("see each other", async () => {
    const server = createServer();
    const [one, two] = [open(server), open(server)];
    one.document.awareness.setLocalState({ name: "Ada" });
    const id = one.document.awareness.clientID;
    await until(() => two.document.awareness.getStates().has(id));
    close(one);
    await until(() => !two.document.awareness.getStates().has(id));
  });

  it("take over when the one with the connection is closed", async () => {
    const server = createServer();
    const tabs = [open(server), open(server), open(server)];
    await until(() => tabs.every(({ document }) => document.synced));
    server.commits = false;
    type(tabs[1]!.document, "kept");
    await until(() => read(tabs[2]!.document) === "kept");
    // The leader, and the server forgets what it has not written.
    close(tabs[0]!);
    server.crash();
    server.commits = true;
    await until(() => tabs[1]!.document.saved);
    await until(() => tabs[2]!.document.synced);
    expect(textOf(server.room("doc").disk).toString()).toBe("kept");
    expect(alive(server)).toBe(1);
  });

  it("leave nothing behind at the one with the connection", async () => {
    const server = createServer();
    const [one, two] = [open(server), open(server)];
    await until(() => one.document.synced && two.document.synced);
    expect(server.room("doc").places.size).toBe(2);
    close(two);
    await until(() => server.room("doc").places.size === 1);
    expect(alive(server)).toBe(1);
    expect(one.document.status).toBe("connected");
  });

  it("give up the connection with the last document", async () => {
    const server = createServer();
    const [one, two] = [open(server), open(server)];
    await until(() => one.document.synced && two.document.synced);
    one.document.destroy();
    two.document.destroy();
    await until(() => alive(server) === 0);
  });

  it("leave nothing behind either if they were about to be let in", async () => {
    const server = createServer();
    const one = open(server);
    await until(() => one.document.synced);
    const post = vi.spyOn(BroadcastChannel.prototype, "postMessage");
    const two = open(server, "other");
    post.mockImplementation(function (this: BroadcastChannel, message) {
      post.mockRestore();
      this.postMessage(message);
      // The tab stays open.
      two.client.destroy();
    });
    await until(() => two.document.status === "disconnected" && two.client.link === null);
    await new Promise((resolve) => setTimeout(resolve, 50));
    one.document.destroy();
    await until(() => alive(server) === 0);
  });

  it("come back together when the connection is lost", async () => {
    const server = createServer();
    const tabs = [open(server), open(server)];
    await until(() => tabs.every(({ document }) => document.synced));
    server.crash();
    expect(tabs[0]!.document.synced).toBe(false);
    await until(() => tabs.every(({ document }) => document.synced));
    expect(alive(server)).toBe(1);
  });

  it("all move when the server advises that", async () => {
    const server = createServer();
    const tabs = [open(server), open(server)];
    await until(() => tabs.every(({ document }) => document.synced));
    const seen: string[] = [];
    for (const { document } of tabs) document.on("status", (status) => seen.push(status));
    server.line.send(0, 2, (to) => {
      encoding.writeVarUint(to, 10);
      encoding.writeVarUint(to, 0);
    });
    await until(() => server.lines.length === 2 && server.lines[0]!.over);
    type(tabs[0]!.document, "moved");
    await until(() => read(tabs[1]!.document) === "moved" && tabs[0]!.document.saved);
    expect(alive(server)).toBe(1);
    expect(seen).toEqual([]);
  });

  it("are told why they were sent away", async () => {
    const server = createServer();
    const tabs = [open(server), open(server)];
    await until(() => tabs.every(({ document }) => document.synced));
    server.line.end(4403, "not you");
    await until(() => tabs.every(({ document }) => document.status === "closed"));
    for (const { client } of tabs) {
      expect(client.error).toEqual({ code: 4403, reason: "not you", final: true });
    }
  });

  it("connect on their own if the leader doesn't answer", async () => {
    const server = createServer();
    // Somebody holds the lock, and is frozen.
    let release = (): void => {};
    void navigator.locks.request(`collab-client ${group} ws://test/ws`, () => {
      return new Promise<void>((resolve) => (release = resolve));
    });
    const tab = open(server);
    await until(() => tab.document.synced);
    expect(server.lines.length).toBe(1);
    release();
  });
});

describe.each([httpStream, serverSentEvents, longPolling])("tabs over $name", (transport) => {
  let server: Server;

  beforeEach(() => {
    server = createServer();
    vi.stubGlobal("fetch", new HttpServer(server).fetch);
    return () => vi.unstubAllGlobals();
  });

  it("share their requests, and another takes over", async () => {
    const tabs = [0, 1, 2].map(() => open(server, "doc", transport));
    await until(() => tabs.every(({ document }) => document.synced));
    expect(server.lines.length).toBe(1);
    type(tabs[1]!.document, "hello");
    await until(() => read(tabs[2]!.document) === "hello" && tabs[1]!.document.saved);
    close(tabs[0]!);
    type(tabs[1]!.document, " again");
    await until(() => read(tabs[2]!.document) === "hello again" && tabs[1]!.document.saved);
    expect(server.lines.length).toBe(2);
  });

  it("meet where WebSockets are blocked", async () => {
    const blocked: Transport = {
      name: "websocket",
      open(_url, handlers) {
        const timer = setTimeout(() => handlers.onClose(1006, ""), 5);
        return { buffered: 0, send: () => {}, close: () => clearTimeout(timer) };
      },
    };
    const tabs = [0, 1, 2].map(() => open(server, "doc", [blocked, transport]));
    await until(() => tabs.every(({ document }) => document.synced));
    expect(tabs.map(({ client }) => client.transportName)).toEqual(
      Array(3).fill(transport.name),
    );
    expect(server.lines.length).toBe(1);
  });
});

describe("tabs without a server", () => {
  it("tell each other, and save it all later", async () => {
    const server = createServer();
    const [one, two] = [open(server), open(server)];
    await until(() => one.document.synced && two.document.synced);
    server.mode = "down";
    server.crash();
    type(one.document, "a");
    type(two.document, "b");
    await until(() => read(one.document).length === 2 && read(two.document).length === 2);
    expect(one.document.saved).toBe(false);
    expect(two.document.saved).toBe(false);
    // Whoever has it saves it.
    close(one);
    server.mode = "up";
    await until(() => two.document.saved);
    expect(textOf(server.room("doc").disk).toString()).toBe(read(two.document));
  });

  it("tell a new one what they have", async () => {
    const server = createServer();
    const one = open(server);
    await until(() => one.document.synced);
    server.mode = "down";
    server.crash();
    type(one.document, "offline");
    const two = open(server);
    await until(() => read(two.document) === "offline");
    expect(two.document.saved).toBe(false);
  });
});

it("where the browser has no locks, each tab has its own connection", async () => {
  const locks = Object.getOwnPropertyDescriptor(Navigator.prototype, "locks")!;
  Object.defineProperty(Navigator.prototype, "locks", { configurable: true, value: undefined });
  try {
    const server = createServer();
    const tabs = [open(server), open(server)];
    await until(() => tabs.every(({ document }) => document.synced));
    expect(server.lines.length).toBe(2);
  } finally {
    Object.defineProperty(Navigator.prototype, "locks", locks);
  }
});
