/** Which transport is used: the rules alone, and as a client follows them. */

import { beforeEach, describe, expect, it, vi } from "vitest";
import { Choice } from "../src/choice.js";
import {
  CollabDocument,
  httpStream,
  longPolling,
  serverSentEvents,
  webSocket,
  type ClientOptions,
  type CollabClient,
  type Transport,
} from "../src/index.js";
import { UNFIT } from "../src/transport.js";
import { HttpServer } from "./http.js";
import { Server } from "./server.js";
import { live, seeds } from "./lives.js";
import { connect, createRandom, pass, read, textOf, type, useVirtualTime } from "./world.js";

const all = [webSocket, httpStream, serverSentEvents, longPolling];

/** What the next attempts are made with, if all end with this code. */
function attempts(choice: Choice, code: number, count: number): string[] {
  return Array.from({ length: count }, () => {
    const { name } = choice.transport;
    return choice.failed(code) ? `${name} and at once` : name;
  });
}

describe("the rules", () => {
  it("a WebSocket that never worked is gone around at once, and tried again", () => {
    expect(attempts(new Choice(all), 1006, 4)).toEqual([
      "websocket and at once",
      "http-stream",
      "websocket and at once",
      "http-stream",
    ]);
  });

  it("one that has worked must fail three times", () => {
    const choice = new Choice(all);
    choice.welcomed(webSocket);
    expect(attempts(choice, 1006, 5)).toEqual([
      "websocket",
      "websocket",
      "websocket and at once",
      "http-stream",
      "websocket",
    ]);
  });

  it("and once, when HTTP was needed since", () => {
    const choice = new Choice(all);
    choice.welcomed(webSocket);
    attempts(choice, 1006, 3);
    choice.welcomed(httpStream);
    expect(attempts(choice, 1006, 2)).toEqual(["http-stream", "websocket and at once"]);
  });

  it("what a server says is no evidence", () => {
    for (const code of [1012, 1013, 4403, 4503]) {
      expect(attempts(new Choice(all), code, 4)).toEqual(Array(4).fill("websocket"));
    }
  });

  it("responses that are kept back are gone around, until a WebSocket works", () => {
    const choice = new Choice(all);
    choice.failed(1006);
    expect(attempts(choice, UNFIT, 2)).toEqual(["http-stream and at once", "events and at once"]);
    expect(choice.transport).toBe(longPolling);
    choice.welcomed(longPolling);
    expect(attempts(choice, 1006, 3)).toEqual([
      "polling",
      "websocket and at once",
      "polling",
    ]);
    choice.welcomed(webSocket);
    attempts(choice, 1006, 3);
    expect(choice.transport).toBe(httpStream);
  });

  it("a network through which nothing comes says nothing of any", () => {
    const choice = new Choice(all);
    choice.failed(0);
    attempts(choice, UNFIT, 2);
    expect(attempts(choice, 0, 3)).toEqual(["polling", "websocket and at once", "http-stream"]);
  });

  it("a server without HTTP is tried by WebSocket", () => {
    const choice = new Choice(all);
    choice.failed(1006);
    expect(choice.isEvidence(4404)).toBe(true);
    expect(attempts(choice, 4404, 2)).toEqual(["http-stream", "websocket"]);
    expect(choice.isEvidence(4404)).toBe(false);
  });

  it("an order of one's own is followed", () => {
    expect(attempts(new Choice([longPolling, webSocket]), 1006, 3)).toEqual([
      "polling and at once",
      "websocket",
      "polling and at once",
    ]);
    expect(attempts(new Choice([httpStream, longPolling]), 1006, 2)).toEqual([
      "http-stream",
      "http-stream",
    ]);
    expect(attempts(new Choice([httpStream, longPolling]), UNFIT, 2)).toEqual([
      "http-stream and at once",
      "polling",
    ]);
    expect(attempts(new Choice([webSocket]), 1006, 2)).toEqual(["websocket", "websocket"]);
    expect(() => new Choice([])).toThrow(RangeError);
  });

  it("what is preferred is tried again, ever more rarely", () => {
    const choice = new Choice(all);
    expect(choice.better).toBe(null);
    choice.welcomed(longPolling);
    expect(choice.better).toBe(webSocket);
    const random = (): number => 0.5;
    const waits = Array.from({ length: 6 }, () => choice.probeAfter(60_000, random));
    expect(waits).toEqual([60_000, 120_000, 240_000, 480_000, 600_000, 600_000]);
    choice.renew();
    expect(choice.probeAfter(60_000, () => 0)).toBe(30_000);
  });
});

describe("a client", () => {
  useVirtualTime();

  let server: Server;
  let http: HttpServer;
  /** What becomes of WebSockets. */
  let sockets: "open" | "blocked" | "silent";
  let tried: number[];

  const socket: Transport = {
    name: "websocket",
    open(url, handlers) {
      tried.push(Date.now());
      if (sockets === "open") return server.transport.open(url, handlers);
      const timer =
        sockets === "blocked" ? setTimeout(() => handlers.onClose(1006, ""), 10) : undefined;
      return { buffered: 0, send: () => {}, close: () => clearTimeout(timer) };
    },
  };

  beforeEach(() => {
    server = new Server();
    http = new HttpServer(server);
    sockets = "open";
    tried = [];
    vi.stubGlobal("fetch", http.fetch);
    return () => vi.unstubAllGlobals();
  });

  function open(options: Partial<ClientOptions> = {}): {
    client: CollabClient;
    document: CollabDocument;
    names: string[];
    statuses: string[];
  } {
    const transport = [socket, httpStream, serverSentEvents, longPolling];
    const client = connect(server, { transport, ...options });
    const names: string[] = [];
    client.on("transport", (name) => names.push(name));
    const document = new CollabDocument(client, "doc");
    const statuses: string[] = [];
    document.on("status", (status) => statuses.push(status));
    return { client, document, names, statuses };
  }

  it("takes the WebSocket where it works", async () => {
    const { client, document, names } = open();
    expect(client.transportName).toBe("websocket");
    await pass(600_000);
    expect(document.synced).toBe(true);
    expect(http.asked).toEqual([]);
    expect(names).toEqual([]);
    expect(tried.length).toBe(1);
  });

  it("goes around one that is refused, at once", async () => {
    sockets = "blocked";
    const { client, document, names, statuses } = open();
    await pass(200);
    expect(document.synced).toBe(true);
    expect(client.transportName).toBe("http-stream");
    expect(names).toEqual(["http-stream"]);
    expect(statuses).not.toContain("waiting");
  });

  it("goes around one that brings nothing, after some seconds", async () => {
    sockets = "silent";
    const { client, document } = open();
    await pass(4_000);
    expect(client.status).toBe("connecting");
    await pass(3_000);
    expect(document.synced).toBe(true);
    expect(client.transportName).toBe("http-stream");
  });

  it("does not storm a server that restarts", async () => {
    const { document } = open();
    await pass(200);
    server.mode = "down";
    server.crash();
    // Back-off is random, and its mean here: 0.75, 1.25 and 2.25 seconds.
    await pass(2_500);
    expect(tried.length).toBe(3);
    expect(http.asked).toEqual([]);
    await pass(60_000);
    expect(http.asked.length).toBeLessThanOrEqual(tried.length / 3);
    server.mode = "up";
    await pass(20_000);
    expect(document.synced).toBe(true);
  });

  it("goes around one that has worked, and doesn't any more", async () => {
    const { client, document } = open();
    await pass(200);
    sockets = "blocked";
    server.crash();
    type(document, "a");
    await pass(10_000);
    expect(client.transportName).toBe("http-stream");
    expect(document.saved).toBe(true);
  });

  it("goes back when it is possible, and nobody notices", async () => {
    sockets = "blocked";
    const { client, document, names, statuses } = open();
    await pass(1_000);
    const synced: boolean[] = [];
    document.on("synced", (value) => synced.push(value));
    type(document, "a");
    await pass(70_000);
    expect(tried.length).toBe(2);
    expect(client.transportName).toBe("http-stream");
    sockets = "open";
    await pass(100_000);
    expect(tried.length).toBe(2);
    type(document, "b");
    await pass(25_000);
    expect(client.transportName).toBe("websocket");
    expect(names).toEqual(["http-stream", "websocket"]);
    expect(synced).toEqual([]);
    expect(statuses).toEqual(["connected"]);
    type(document, "c");
    await pass(200);
    expect(document.saved).toBe(true);
    expect(textOf(server.room("doc").disk).toString()).toBe("abc");
    // The requests are over.
    await pass(1_000);
    expect(http.listening).toBe(0);
    const before = http.asked.length;
    await pass(600_000);
    expect(http.asked.length).toBe(before);
  });

  it("presence outlives the way there and back", async () => {
    const watcher = open({ transport: server.transport });
    sockets = "blocked";
    const { client, document } = open({ probe: 5_000 });
    document.awareness.setLocalState({ name: "Ada" });
    await pass(1_000);
    const seen: unknown[] = [];
    const id = document.awareness.clientID;
    watcher.document.awareness.on("change", () => {
      seen.push(watcher.document.awareness.getStates().get(id));
    });
    sockets = "open";
    await pass(60_000);
    expect(client.transportName).toBe("websocket");
    expect(seen).not.toContain(undefined);
    expect(watcher.document.awareness.getStates().get(id)).toEqual({ name: "Ada" });
  });

  it("looks at once when it is online again", async () => {
    sockets = "blocked";
    const listeners = new Map<string, (event: Event) => void>();
    vi.stubGlobal("addEventListener", (type: string, listener: (event: Event) => void) => {
      if (type === "online") listeners.set(type, listener);
    });
    const { client } = open();
    await pass(1_000);
    expect(client.transportName).toBe("http-stream");
    sockets = "open";
    listeners.get("online")!(new Event("online"));
    await pass(1_000);
    expect(client.transportName).toBe("websocket");
  });

  it("polls where responses are kept back", async () => {
    sockets = "blocked";
    http.buffered = new Set(["stream", "events"]);
    const { client, document, names } = open();
    await pass(20_000);
    expect(document.synced).toBe(true);
    expect(client.transportName).toBe("polling");
    expect(names).toEqual(["polling"]);
    type(document, "a");
    await pass(300);
    expect(document.saved).toBe(true);
  });

  it("takes events where only they come through", async () => {
    sockets = "blocked";
    http.buffered = new Set(["stream"]);
    const { client } = open();
    await pass(20_000);
    expect(client.transportName).toBe("events");
  });

  it("comes back to HTTP after an outage", async () => {
    sockets = "blocked";
    const { client, document } = open();
    await pass(1_000);
    server.mode = "down";
    server.crash();
    await pass(60_000);
    expect(client.status).toBe("waiting");
    type(document, "a");
    server.mode = "up";
    await pass(40_000);
    expect(client.transportName).toBe("http-stream");
    expect(document.saved).toBe(true);
    expect(read(document)).toBe("a");
  });

  it("a server that ends a connection while a better one is tried is come back to", async () => {
    sockets = "blocked";
    const { client, document } = open({ probe: 2_000 });
    await pass(1_000);
    sockets = "silent";
    await pass(2_000);
    expect(tried.length).toBe(2);
    server.mode = "down";
    server.crash();
    await pass(10_000);
    expect(client.status).toBe("waiting");
    server.mode = "up";
    await pass(60_000);
    expect(document.synced).toBe(true);
  });

  it("a server without HTTP is no error for ever", async () => {
    sockets = "blocked";
    http.instead = { status: 404, type: "text/plain", text: "no such thing" };
    const { client, document } = open();
    await pass(5_000);
    expect(client.status).not.toBe("closed");
    sockets = "open";
    await pass(30_000);
    expect(document.synced).toBe(true);
    expect(client.transportName).toBe("websocket");
  });

  it.each(seeds)("loses nothing while WebSockets come and go: seed %i", async (seed) => {
    const random = createRandom(seed);
    await live(
      server,
      http,
      random,
      () => open({ random, probe: 3_000 }).document,
      () => {
        sockets = sockets === "open" ? (random() < 0.5 ? "blocked" : "silent") : "open";
        http.buffered = new Set(random() < 0.5 ? ["stream", "events"] : []);
        for (const line of server.lines) if (random() < 0.5) line.end(1006);
      },
    );
  });

  it("the fallback may be elsewhere", async () => {
    sockets = "blocked";
    const urls: string[] = [];
    vi.stubGlobal("fetch", (url: URL, init: RequestInit) => {
      urls.push(url.href);
      return http.fetch(url, init);
    });
    const { document } = open({ fallbackUrl: "https://elsewhere.example/sync" });
    await pass(1_000);
    expect(document.synced).toBe(true);
    expect(urls[0]).toBe("https://elsewhere.example/sync/stream");
  });
});
