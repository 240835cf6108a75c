// @vitest-environment happy-dom

import { describe, expect, it, vi } from "vitest";
import { CollabClient, CollabDocument, type Status } from "../src/index.js";
import { MARGIN, PATIENCE, WELCOME } from "../src/link.js";
import { backOff, CAP, FLOOR, readCode } from "../src/retry.js";
import * as encoding from "lib0/encoding";
import * as Y from "yjs";
import { Server } from "./server.js";
import { advise, connect, createRandom, openDocument, pass, read, textOf, type, useVirtualTime } from "./world.js";

useVirtualTime();

/** How long it took from each attempt to connect to the next, in milliseconds. */
function watchAttempts(server: Server): number[] {
  // Timers count whole milliseconds, and waits don't.
  const at: number[] = [];
  const waits: number[] = [];
  server.onLine = () => {
    at.push(Date.now());
    if (at.length > 1) waits.push(Math.round((at.at(-1)! - at.at(-2)!) / 10) * 10);
  };
  return waits;
}

function show(state: "visible" | "hidden"): void {
  vi.spyOn(document, "visibilityState", "get").mockReturnValue(state);
  document.dispatchEvent(new Event("visibilitychange"));
}

describe("back-off", () => {
  it("is random between its floor and twice as much each time, up to its cap", () => {
    const random = createRandom(1);
    for (let attempt = 1; attempt < 2_000; attempt += 1) {
      const most = Math.min(CAP, FLOOR * 2 ** attempt);
      const waits = Array.from({ length: 200 }, () => backOff(attempt, random));
      expect(Math.min(...waits)).toBeGreaterThanOrEqual(FLOOR);
      expect(Math.max(...waits)).toBeLessThanOrEqual(most);
      // The whole range is used.
      const range = most - FLOOR;
      expect(Math.min(...waits)).toBeLessThan(FLOOR + range * 0.1);
      expect(Math.max(...waits)).toBeGreaterThan(FLOOR + range * 0.9);
    }
  });

  it("grows while nothing succeeds", async () => {
    const server = new Server();
    server.mode = "down";
    server.latency = 0;
    const waits = watchAttempts(server);
    new CollabDocument(connect(server, { random: () => 1 - 1e-9 }), "doc");
    await pass(120_000);
    expect(waits.slice(0, 8)).toEqual([
      1_000, 2_000, 4_000, 8_000, 16_000, 20_000, 20_000, 20_000,
    ]);
  });

  it("starts anew after Synced, and not before", async () => {
    const server = new Server();
    server.latency = 0;
    // Connects, and is cut off within the opening.
    const waits = watchAttempts(server);
    const count = server.onLine;
    let budget = 20;
    server.onLine = (line) => {
      count(line);
      line.budget = budget;
    };
    const document = new CollabDocument(connect(server, { random: () => 1 - 1e-9 }), "doc");
    await pass(20_000);
    expect(waits).toEqual([1_000, 2_000, 4_000, 8_000]);
    budget = Infinity;
    await pass(20_000);
    expect(document.synced).toBe(true);
    server.crash();
    await pass(1_500);
    expect(waits.at(-1)).toBeGreaterThan(8_000);
    server.crash();
    await pass(1_500);
    expect(waits.at(-1)).toBeLessThan(1_600);
    expect(document.synced).toBe(true);
  });

  it("ends at once when the browser is online", async () => {
    const server = new Server();
    server.mode = "down";
    const document = await openDocument(server);
    await pass(60_000);
    server.mode = "up";
    const before = server.lines.length;
    window.dispatchEvent(new Event("online"));
    await pass(100);
    expect(server.lines.length).toBe(before + 1);
    expect(document.synced).toBe(true);
  });

  it("ends at once when the page is shown", async () => {
    const server = new Server();
    server.mode = "down";
    const document = await openDocument(server);
    show("hidden");
    await pass(60_000);
    server.mode = "up";
    const before = server.lines.length;
    show("hidden");
    await pass(10);
    expect(server.lines.length).toBe(before);
    show("visible");
    await pass(100);
    expect(document.synced).toBe(true);
  });

  it("can be seen", async () => {
    const server = new Server();
    const client = connect(server);
    new CollabDocument(client, "doc");
    const seen: Status[] = [];
    client.on("status", (status) => seen.push(status));
    await pass(100);
    expect(client.retryAt).toBeNull();
    server.crash();
    expect(client.retryAt).toBe(Date.now() + 750);
    expect(client.error).toEqual({ code: 1006, reason: "", final: false });
    await pass(1_000);
    expect(seen).toEqual(["connected", "waiting", "connecting", "connected"]);
    expect(client.error).toBeNull();
  });
});

describe("a close code", () => {
  it.each([
    [1000, "done"],
    [1001, "done"],
    [1005, "retry"],
    [1006, "retry"],
    [1009, "retry"],
    [1012, "retry"],
    [1013, "retry"],
    [3000, "retry"],
    [4000, "retry"],
    [4399, "retry"],
    [4400, "never"],
    [4401, "never"],
    [4499, "never"],
    [4500, "retry"],
    [4599, "retry"],
    [4600, "retry"],
  ])("says what to do: %i, %s", async (code, policy) => {
    expect(readCode(code)).toBe(policy);
    const server = new Server();
    const document = await openDocument(server);
    server.line.end(code, "so it is");
    expect(document.status).toBe(policy === "retry" ? "waiting" : "closed");
    expect(document.error).toEqual({ code, reason: "so it is", final: policy !== "retry" });
    await pass(60_000);
    expect(server.lines.length).toBe(policy === "retry" ? 2 : 1);
    expect(document.synced).toBe(policy === "retry");
  });

  it("that is final can be overruled by a person", async () => {
    const server = new Server();
    const client = connect(server);
    const document = new CollabDocument(client, "doc");
    await pass(100);
    server.line.end(4403, "no");
    expect(client.error).toEqual({ code: 4403, reason: "no", final: true });
    client.connect();
    await pass(100);
    expect(document.status).toBe("connected");
  });
});

describe("a dead connection", () => {
  it("is found by silence, and given up", async () => {
    const server = new Server();
    const document = await openDocument(server);
    await pass(60_000);
    expect(server.lines.length).toBe(1);
    server.line.dead = true;
    await pass(server.heartbeat + MARGIN + PATIENCE + 2_000);
    expect(server.lines[0]!.closed).not.toBeNull();
    await pass(1_000);
    expect(document.synced).toBe(true);
    expect(server.lines.length).toBe(2);
  });

  it("is not assumed while the server answers", async () => {
    const server = new Server();
    const document = await openDocument(server);
    // One that promised more than it keeps, but answers.
    server.line.send(0, 0, (to) => {
      encoding.writeVarUint(to, 1);
      encoding.writeVarString(to, "c");
      encoding.writeVarUint(to, 2_000);
      encoding.writeVarUint(to, 2 ** 24);
    });
    await pass(120_000);
    expect(server.lines.length).toBe(1);
    expect(document.synced).toBe(true);
    expect(server.line.heard.filter((word) => word.startsWith("ping")).length).toBeGreaterThan(4);
  });

  it("that never welcomes us is given up", async () => {
    const server = new Server();
    server.mode = "silent";
    const document = await openDocument(server);
    await pass(WELCOME + 1_500);
    expect(server.lines.length).toBe(2);
    server.mode = "up";
    await pass(WELCOME + 10_000);
    expect(document.synced).toBe(true);
  });

  it("is found at once when the machine wakes up", async () => {
    const server = new Server();
    const document = await openDocument(server);
    server.line.dead = true;
    // Timers stand still while it sleeps, and the clock goes on.
    vi.setSystemTime(Date.now() + 8 * 3_600_000);
    await pass(1_000 + PATIENCE + 2_000);
    expect(server.lines.length).toBe(2);
    expect(document.synced).toBe(true);
  });

  it("is not assumed when the machine wakes up with a good one", async () => {
    const server = new Server();
    await openDocument(server);
    vi.setSystemTime(Date.now() + 60_000);
    await pass(20_000);
    expect(server.lines.length).toBe(1);
    expect(server.line.heard).toContain("ping 1");
  });

  it("is not assumed because the browser rarely lets us look", async () => {
    const server = new Server();
    await openDocument(server);
    for (let minute = 0; minute < 30; minute += 1) {
      vi.setSystemTime(Date.now() + 60_000);
      await pass(1_000);
    }
    expect(server.lines.length).toBe(1);
  });

  it("is found even if the browser rarely lets us look", async () => {
    const server = new Server();
    await openDocument(server);
    server.line.dead = true;
    for (let minute = 0; minute < 5; minute += 1) {
      vi.setSystemTime(Date.now() + 60_000);
      await pass(1_000);
    }
    expect(server.lines.length).toBe(2);
  });

  it("is found also if the clock is set back", async () => {
    const server = new Server();
    await openDocument(server);
    server.line.dead = true;
    vi.setSystemTime(Date.now() - 3_600_000);
    await pass(40_000);
    expect(server.lines.length).toBe(2);
  });

  it("is not assumed while something large is on its way out", async () => {
    const server = new Server();
    await openDocument(server);
    server.line.dead = true;
    server.line.buffered = 1_000_000;
    window.dispatchEvent(new Event("online"));
    for (let second = 0; second < 20; second += 1) {
      server.lines[0]!.buffered -= 10_000;
      await pass(1_000);
    }
    expect(server.lines.length).toBe(1);
    // But if that gets stuck, it is.
    await pass(PATIENCE + 3_000);
    expect(server.lines.length).toBe(2);
  });

  it.each(["online", "offline"])("is looked for when the browser is %s", async (event) => {
    const server = new Server();
    const document = await openDocument(server);
    server.line.dead = true;
    window.dispatchEvent(new Event(event));
    await pass(PATIENCE + 2_500);
    expect(server.lines.length).toBe(2);
    expect(document.synced).toBe(true);
  });
});

describe("advice to reconnect", () => {
  it("is followed at a random moment of the window", async () => {
    const moments: number[] = [];
    for (const random of [0, 0.25, 0.5, 0.999]) {
      const server = new Server();
      await openDocument(server, "doc", { client: { random: () => random } });
      advise(server.line, 1_000, 10_000);
      const start = Date.now() + server.latency;
      server.onLine = () => moments.push(Date.now() - start);
      await pass(20_000);
    }
    expect(moments).toEqual([1_000, 3_500, 6_000, 10_990]);
  });

  it("makes before it breaks", async () => {
    const server = new Server();
    const client = connect(server);
    const documents = ["a", "b"].map((name) => new CollabDocument(client, name));
    await pass(100);
    const seen: unknown[] = [];
    for (const document of documents) {
      document.on("status", (status) => seen.push(status));
      document.on("synced", (synced) => seen.push(synced));
    }
    client.on("status", (status) => seen.push(status));
    server.latency = 100;
    advise(server.line, 0, 0);
    await pass(250);
    expect(server.lines.length).toBe(2);
    // Nothing of the new one has arrived: the old one serves.
    type(documents[0]!, "meanwhile");
    await pass(50);
    expect(server.lines[0]!.closed).toBeNull();
    await pass(2_000);
    expect(server.lines[0]!.closed?.code).toBe(1000);
    expect(server.lines[0]!.heard.filter((word) => word === "close")).toHaveLength(2);
    expect(server.lines[1]!.closed).toBeNull();
    expect(seen).toEqual([]);
    expect(documents.every(({ saved, synced }) => saved && synced)).toBe(true);

    type(documents[1]!, "afterwards");
    await pass(1_000);
    expect(server.lines[1]!.heard).toContain("update 1");
    expect(textOf(server.room("b").disk).toString()).toBe("afterwards");
  });

  it("loses and doubles nothing that is typed all the while", async () => {
    const server = new Server();
    server.latency = 40;
    const one = await openDocument(server);
    const two = await openDocument(server);
    const lies: string[] = [];
    one.on("saved", (saved) => {
      if (saved && textOf(server.room("doc").disk).toString() !== read(one)) lies.push(read(one));
    });
    advise(server.line, 0, 100);
    advise(server.lines[0]!, 0, 100);
    for (let letter = 0; letter < 100; letter += 1) {
      type(one, String(letter % 10));
      await pass(7);
    }
    await pass(1_000);
    expect(server.lines.length).toBe(4);
    expect(read(two)).toBe(read(one));
    expect(read(one)).toHaveLength(100);
    expect(one.saved).toBe(true);
    expect(lies).toEqual([]);
  });

  it("keeps presence without a flicker", async () => {
    const server = new Server();
    const one = await openDocument(server);
    const two = await openDocument(server);
    const removed: number[] = [];
    for (const document of [one, two]) {
      document.awareness.on("change", (change: { removed: number[] }) => {
        removed.push(...change.removed);
      });
    }
    advise(server.line, 0, 0);
    await pass(2_000);
    expect(two.synced).toBe(true);
    expect(server.lines.length).toBe(3);
    expect(one.awareness.getStates().size).toBe(2);
    expect(two.awareness.getStates().size).toBe(2);
    expect(removed).toEqual([]);
  });

  it("is followed later if the new connection fails", async () => {
    const server = new Server();
    const document = await openDocument(server);
    const seen: unknown[] = [];
    document.on("status", (status) => seen.push(status));
    advise(server.line, 0, 0);
    server.mode = "down";
    await pass(3_000);
    expect(server.lines.length).toBeGreaterThan(2);
    expect(server.lines[0]!.closed).toBeNull();
    server.mode = "up";
    await pass(10_000);
    expect(server.lines[0]!.closed?.code).toBe(1000);
    expect(document.synced).toBe(true);
    expect(seen).toEqual([]);
  });

  it("that fails leaves nothing unsaid of what the new one lacked", async () => {
    const server = new Server();
    const document = await openDocument(server);
    type(document, "a");
    await pass(100);
    const room = server.room("doc");
    const { doc } = room;
    server.onLine = (line) => {
      // The next server has not heard of it, says so, and is gone.
      room.doc = new Y.Doc();
      const send = line.send.bind(line);
      line.send = (channel, kind, write) => {
        if (channel === 0 || kind === 0) send(channel, kind, write);
      };
      setTimeout(() => {
        room.doc = doc;
        line.end(1006);
      }, 45);
    };
    advise(server.line, 0, 0);
    await pass(300);
    expect(server.lines.map(({ over }) => over)).toEqual([false, true]);
    expect([document.saved, document.unsaved]).toEqual([true, 0]);
  });

  it("helps if the old connection ends first", async () => {
    const server = new Server();
    const document = await openDocument(server);
    type(document, "a");
    await pass(100);
    advise(server.line, 0, 0);
    server.latency = 100;
    await pass(250);
    server.lines[0]!.end(1012);
    type(document, "b");
    await pass(2_000);
    expect(server.lines.length).toBe(2);
    expect(document.synced).toBe(true);
    expect(document.saved).toBe(true);
    expect(textOf(server.room("doc").disk).toString()).toBe("ab");
  });

  it("is not followed with a document that the new one refuses, but with the others", async () => {
    const server = new Server();
    const client = connect(server);
    const [one, two] = ["a", "b"].map((name) => new CollabDocument(client, name));
    await pass(100);
    server.room("a").closing = 4403;
    advise(server.line, 0, 0);
    await pass(2_000);
    expect(server.lines[0]!.closed?.code).toBe(1000);
    expect(one!.status).toBe("closed");
    expect(two!.status).toBe("connected");
  });
});

describe("a client", () => {
  it("stays offline while the application wishes that", async () => {
    const server = new Server();
    const client = connect(server);
    const document = new CollabDocument(client, "doc");
    await pass(100);
    client.disconnect();
    expect(document.status).toBe("disconnected");
    type(document, "offline");
    window.dispatchEvent(new Event("online"));
    await pass(60_000);
    expect(server.lines.length).toBe(1);
    expect(document.saved).toBe(false);
    client.connect();
    await pass(200);
    expect(document.saved).toBe(true);
    expect(document.status).toBe("connected");
  });

  it("that shall not connect waits until it shall", async () => {
    const server = new Server();
    const client = connect(server, { connect: false });
    const document = new CollabDocument(client, "doc");
    await pass(60_000);
    expect(server.lines.length).toBe(0);
    client.connect();
    await pass(100);
    expect(document.synced).toBe(true);
  });

  it("measures the way to the server", async () => {
    const server = new Server();
    server.latency = 35;
    const client = connect(server);
    expect(await client.ping()).toBeNull();
    new CollabDocument(client, "doc");
    await pass(300);
    const delay = client.ping();
    await pass(100);
    expect(await delay).toBe(70);
    const lost = client.ping();
    server.crash();
    expect(await lost).toBeNull();
  });

  it("is refused nothing by a server that says nonsense, and comes back", async () => {
    const server = new Server();
    const document = await openDocument(server);
    server.line.sendFrame(new Uint8Array([1, 7]));
    await pass(50);
    expect(server.lines[0]!.closed).toMatchObject({ code: 4400 });
    expect(document.status).toBe("waiting");
    await pass(2_000);
    expect(document.synced).toBe(true);
  });

  it("ignores what it doesn't know", async () => {
    const server = new Server();
    const document = await openDocument(server);
    server.line.sendFrame(new Uint8Array([1, 99, 255, 255]));
    server.line.sendFrame(new Uint8Array([0, 99]));
    server.edit("doc", (doc) => textOf(doc).insert(0, "fine"));
    await pass(100);
    expect(read(document)).toBe("fine");
    expect(server.lines.length).toBe(1);
  });

  it("leaves nothing running when it is destroyed", async () => {
    const server = new Server();
    const client = connect(server);
    new CollabDocument(client, "doc");
    await pass(100);
    client.destroy();
    await pass(30_000);
    expect(vi.getTimerCount()).toBe(0);
    expect(server.line.closed?.code).toBe(1000);
  });
});

describe("an application that acts when it is told", () => {
  const events = ["synced", "status", "error"] as const;

  it.each(events)("%s may connect at once", async (event) => {
    const server = new Server();
    const client = connect(server);
    const document = new CollabDocument(client, "doc");
    await pass(100);
    document.on(event, () => {
      if (!document.synced) client.connect();
    });
    server.line.end(1006);
    await pass(30_000);
    expect(document.synced).toBe(true);
    expect(client.status).toBe("connected");
    expect(server.lines.filter(({ over }) => !over)).toHaveLength(1);
    client.destroy();
    await pass(30_000);
    expect(server.lines.filter(({ over }) => !over)).toHaveLength(0);
    expect(vi.getTimerCount()).toBe(0);
  });

  it.each(events)("%s may disconnect", async (event) => {
    const server = new Server();
    const client = connect(server);
    const document = new CollabDocument(client, "doc");
    const seen: Status[] = [];
    await pass(100);
    client.on("status", (status) => seen.push(status));
    document.on(event, () => {
      if (!document.synced) client.disconnect();
    });
    server.line.end(1006);
    await pass(30_000);
    expect(client.status).toBe("disconnected");
    expect(seen).toEqual(["disconnected"]);
    expect(server.lines.length).toBe(1);
  });

  it.each(events)("%s may destroy the document", async (event) => {
    const server = new Server();
    const client = connect(server);
    const document = new CollabDocument(client, "doc");
    new CollabDocument(client, "other");
    await pass(100);
    document.on(event, () => {
      if (!document.synced) document.destroy();
    });
    const [place] = server.room("doc").places;
    server.room("doc").places.clear();
    place!.send(1, (to) => {
      encoding.writeVarUint(to, 4503);
      encoding.writeVarString(to, "");
    });
    await pass(30_000);
    expect(document.status).toBe("disconnected");
    expect(server.room("doc").places.size).toBe(0);
  });

  it("connecting may disconnect", async () => {
    const server = new Server();
    const client = connect(server);
    client.on("status", (status) => {
      if (status === "connecting") client.disconnect();
    });
    new CollabDocument(client, "doc");
    await pass(1_000);
    expect(client.status).toBe("disconnected");
    expect(server.room("doc").places.size).toBe(0);
  });

  it("access may disconnect, and open others, while all move", async () => {
    for (const act of ["disconnect", "open"]) {
      const server = new Server();
      const client = connect(server);
      const documents = ["a", "b"].map((name) => new CollabDocument(client, name));
      await pass(100);
      for (const document of documents) {
        document.on("access", () => {
          if (act === "disconnect") client.disconnect();
          else documents.push(new CollabDocument(client, "c"));
        });
      }
      server.onLine = () => {
        for (const name of ["a", "b"]) server.room(name).writable = false;
      };
      advise(server.line, 0, 0);
      await pass(1_000);
      expect(client.status).toBe(act === "open" ? "connected" : "disconnected");
      const places = ["a", "b", "c"].map((name) => server.room(name).places.size);
      expect(places).toEqual(act === "open" ? [1, 1, 2] : [0, 0, 0]);
    }
  });
});

describe("leaving the page", () => {
  function leave(): boolean {
    const event = new Event("beforeunload", { cancelable: true });
    window.dispatchEvent(event);
    return !event.defaultPrevented;
  }

  it("is questioned while something is unsaved", async () => {
    const server = new Server();
    server.commits = false;
    const document = await openDocument(server);
    expect(leave()).toBe(true);
    type(document, "a");
    expect(leave()).toBe(false);
    await pass(100);
    server.commit();
    await pass(100);
    expect(leave()).toBe(true);
    type(document, "b");
    document.destroy();
    expect(leave()).toBe(true);
  });

  it("is free if the application says so, or nothing could be saved anyway", async () => {
    const server = new Server();
    server.commits = false;
    type(await openDocument(server, "doc", { guard: false }), "a");
    server.room("other").writable = false;
    type(await openDocument(server, "other"), "b");
    expect(leave()).toBe(true);
  });
});

it("an address is not checked before there is something to open", () => {
  expect(new CollabClient({ url: "ws://nowhere.invalid/ws" }).status).toBe("disconnected");
});
