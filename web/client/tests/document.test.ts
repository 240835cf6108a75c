import { applyAwarenessUpdate, encodeAwarenessUpdate } from "y-protocols/awareness";
import { describe, expect, it, vi } from "vitest";
import * as encoding from "lib0/encoding";
import * as Y from "yjs";
import { CollabDocument, type Token } from "../src/index.js";
import { GRACE } from "../src/presence.js";
import { Server } from "./server.js";
import {
  advise,
  connect,
  openDocument,
  pass,
  read,
  textOf,
  type,
  useVirtualTime,
  whileThrowing,
} from "./world.js";

useVirtualTime();

/** What a server hears of documents, without pings. */
function heard(server: Server): string[] {
  return server.line.heard.filter((word) => !word.startsWith("ping"));
}

describe("opening", () => {
  it("says hello, opens and announces itself in one frame", async () => {
    const server = new Server();
    await openDocument(server, "notes", { token: "secret" });
    expect(heard(server)).toEqual(["hello collab-client", "open notes secret  0", "presence"]);
    expect(server.line.frames.length).toBe(1);
  });

  it("brings what the server has", async () => {
    const server = new Server();
    server.edit("doc", (doc) => textOf(doc).insert(0, "hello"));
    const document = await openDocument(server);
    await document.whenSynced;
    expect(read(document)).toBe("hello");
    expect(document).toMatchObject({
      status: "connected",
      synced: true,
      saved: true,
      progress: 1,
      access: "write",
      error: null,
    });
  });

  it("shows progress, which never goes back", async () => {
    const server = new Server();
    for (let part = 0; part < 20; part += 1) {
      server.edit("doc", (doc) => textOf(doc).insert(0, "x".repeat(100)));
    }
    const seen: number[] = [];
    // Cut once in the middle: what has arrived isn't asked for again.
    server.onLine = (line) => {
      line.budget = server.lines.length === 1 ? 1_500 : Infinity;
    };
    const document = new CollabDocument(connect(server), "doc");
    document.on("progress", (progress) => seen.push(progress));
    await pass(5_000);
    expect(server.lines.length).toBe(2);
    expect(server.line.sent).toBeLessThan(1_500);
    expect(seen).toEqual([...seen].sort((left, right) => left - right));
    expect(seen.length).toBeGreaterThan(10);
    expect(seen.at(-1)).toBe(1);
    expect(document.synced).toBe(true);
  });

  it("comes back by epoch and position, and costs little", async () => {
    const server = new Server();
    server.edit("doc", (doc) => textOf(doc).insert(0, "x".repeat(10_000)));
    const document = await openDocument(server);
    server.crash();
    server.edit("doc", (doc) => textOf(doc).insert(0, "new "));
    await pass(2_000);
    expect(server.line.heard).toContain("open doc  e1 1");
    expect(server.line.sent).toBeLessThan(250);
    expect(read(document)).toMatch(/^new x/);
  });

  it("counts from the state vector if the epoch is another", async () => {
    const server = new Server();
    server.edit("doc", (doc) => textOf(doc).insert(0, "abc"));
    const document = await openDocument(server);
    server.room("doc").epoch = "e2";
    server.crash();
    server.edit("doc", (doc) => textOf(doc).insert(3, "d"));
    await pass(2_000);
    server.crash();
    await pass(2_000);
    expect(read(document)).toBe("abcd");
    // The third is what the other document was told.
    expect(server.line.heard).toContain("open doc  e2 3");
  });

  it("tells another document what was deleted in this one", async () => {
    const server = new Server();
    const document = await openDocument(server);
    type(document, "abc");
    await pass(100);
    textOf(document.doc).delete(0, 1);
    await pass(100);
    // It is made anew, of a copy from before the deletion.
    const room = server.room("doc");
    room.log.pop();
    room.epoch = "e2";
    server.crash();
    expect(textOf(room.disk).toString()).toBe("abc");
    await pass(2_000);
    expect(document.saved).toBe(true);
    expect(textOf(room.disk).toString()).toBe("bc");
  });

  it("remembers no position before it has all that this counts", async () => {
    const server = new Server();
    server.edit("doc", (doc) => textOf(doc).insert(0, "abc"));
    const document = await openDocument(server);
    // It read too slowly, and is brought up to date: piece by piece, while others type.
    const place = [...server.room("doc").places][0]!;
    place.send(6, (to) => encoding.writeVarUint8Array(to, new Uint8Array(2)));
    place.send(2, (to) => {
      encoding.writeVarUint(to, 99);
      encoding.writeVarUint8Array(to, new Uint8Array(2));
    });
    await pass(50);
    server.crash();
    await pass(2_000);
    expect(server.line.heard).toContain("open doc  e1 1");
    expect(document.synced).toBe(true);
  });

  it("gives the server back what it has lost", async () => {
    const server = new Server();
    const document = await openDocument(server);
    type(document, "precious");
    await pass(100);
    expect(document.saved).toBe(true);
    server.rooms.clear();
    const states: boolean[] = [];
    document.on("saved", (saved) => states.push(saved));
    server.crash();
    await pass(2_000);
    expect(textOf(server.room("doc").disk).toString()).toBe("precious");
    expect(states).toEqual([false, true]);
  });

  it.each(Array.from({ length: 12 }, (_, seed) => seed))(
    "survives cuts at any octet: part %i",
    async (part) => {
      // Each length of what arrives before the cut, and then an undisturbed connection.
      for (let budget = part; budget < 620; budget += 12) {
        const server = new Server();
        server.commits = true;
        for (let edit = 0; edit < 6; edit += 1) {
          server.edit("doc", (doc) => textOf(doc).insert(0, `edit ${edit} `.repeat(3)));
        }
        server.edit("doc", (doc) => textOf(doc).delete(3, 20));
        server.onLine = (line) => {
          line.budget = server.lines.length <= 2 ? budget : Infinity;
        };
        const client = connect(server);
        const document = new CollabDocument(client, "doc");
        type(document, "mine");
        await pass(8_000);
        expect(document.synced, `after ${budget}`).toBe(true);
        expect(document.saved).toBe(true);
        expect(read(document)).toBe(textOf(server.room("doc").disk).toString());
        client.destroy();
      }
    },
  );
});

describe("editing", () => {
  it("is saved once the server says so, and not before", async () => {
    const server = new Server();
    server.commits = false;
    const document = await openDocument(server);
    type(document, "a");
    expect(document.saved).toBe(false);
    await pass(1_000);
    expect(document.saved).toBe(false);
    server.commit();
    await pass(100);
    expect(document.saved).toBe(true);
    expect(document.unsaved).toBe(0);
  });

  it("reaches the others", async () => {
    const server = new Server();
    const one = await openDocument(server);
    const two = await openDocument(server);
    type(one, "hello");
    await pass(100);
    expect(read(two)).toBe("hello");
    expect(two.saved).toBe(true);
  });

  it("puts what is typed at once into one frame", async () => {
    const server = new Server();
    const document = await openDocument(server);
    const before = server.line.frames.length;
    for (const letter of "together") type(document, letter);
    await pass(100);
    expect(server.line.frames.length).toBe(before + 1);
    expect(document.saved).toBe(true);
  });

  it("sends again what was not saved", async () => {
    const server = new Server();
    server.commits = false;
    const document = await openDocument(server);
    type(document, "a");
    type(document, "b");
    await pass(100);
    server.crash();
    expect(textOf(server.room("doc").doc).toString()).toBe("");
    server.commits = true;
    await pass(2_000);
    expect(textOf(server.room("doc").disk).toString()).toBe("ab");
    expect(heard(server).filter((word) => word.startsWith("update"))).toEqual(["update 1"]);
    expect(document.saved).toBe(true);
  });

  it("sends deletions again, too", async () => {
    const server = new Server();
    server.edit("doc", (doc) => textOf(doc).insert(0, "abc"));
    const document = await openDocument(server);
    server.commits = false;
    textOf(document.doc).delete(0, 2);
    await pass(100);
    server.crash();
    server.commits = true;
    await pass(2_000);
    expect(textOf(server.room("doc").disk).toString()).toBe("c");
  });

  it("sends again what was saved if the word of that got lost", async () => {
    const server = new Server();
    server.mute = true;
    const document = await openDocument(server);
    type(document, "once");
    await pass(1_000);
    expect(document.saved).toBe(false);
    server.mute = false;
    server.crash();
    await pass(2_000);
    expect(document.saved).toBe(true);
    expect(textOf(server.room("doc").disk).toString()).toBe("once");
  });

  it("offline for a day is merged, in one update", async () => {
    const server = new Server();
    const document = await openDocument(server);
    server.mode = "down";
    server.crash();
    for (let minute = 0; minute < 24 * 60; minute += 1) {
      type(document, String(minute % 10));
      await pass(60_000);
    }
    server.edit("doc", (doc) => textOf(doc).insert(0, "theirs "));
    expect(document.saved).toBe(false);
    expect(document.unsaved).toBe(24 * 60);
    server.mode = "up";
    await pass(30_000);
    expect(heard(server).filter((word) => word.startsWith("update"))).toEqual(["update 1"]);
    expect(document.saved).toBe(true);
    expect(read(document)).toHaveLength(24 * 60 + 7);
    expect(textOf(server.room("doc").disk).toString()).toBe(read(document));
  });

  it("before the first connection counts", async () => {
    const server = new Server();
    server.mode = "down";
    const document = await openDocument(server);
    type(document, "early");
    expect(document.saved).toBe(false);
    server.mode = "up";
    await pass(30_000);
    expect(document.saved).toBe(true);
    expect(textOf(server.room("doc").disk).toString()).toBe("early");
  });

  it("counts what was in the document before, deletions too", async () => {
    const server = new Server();
    server.edit("doc", (doc) => textOf(doc).insert(0, "abc"));
    const doc = new Y.Doc();
    Y.applyUpdate(doc, Y.encodeStateAsUpdate(server.room("doc").doc));
    textOf(doc).delete(0, 1);
    server.commits = false;
    const document = new CollabDocument(connect(server), "doc", { doc });
    expect(document.saved).toBe(false);
    await pass(200);
    expect(document.synced).toBe(true);
    expect(document.saved).toBe(false);
    server.commit();
    await pass(200);
    expect(document.saved).toBe(true);
    expect(textOf(server.room("doc").disk).toString()).toBe("bc");
  });

  it("that is too large for a frame is told, and is not saved", async () => {
    const server = new Server();
    server.size = 1_000;
    const document = await openDocument(server);
    type(document, "x".repeat(2_000));
    await pass(1_000);
    expect(document.error).toMatchObject({ code: 1009, final: false });
    expect(document.saved).toBe(false);
    expect(document.status).toBe("connected");
  });

  it("offline of more than a frame goes in several", async () => {
    const server = new Server();
    server.size = 1_000;
    const document = await openDocument(server);
    server.crash();
    for (let part = 0; part < 5; part += 1) type(document, "x".repeat(500));
    await pass(2_000);
    expect(document.saved).toBe(true);
    expect(textOf(server.room("doc").disk).length).toBe(2_500);
  });

  it("offline of many parts is joined into no more than a frame", async () => {
    const server = new Server();
    server.size = 10_000;
    const document = await openDocument(server);
    server.crash();
    for (let part = 0; part < 100; part += 1) type(document, "x".repeat(600));
    await pass(2_000);
    expect(document.error).toBeNull();
    expect(document.saved).toBe(true);
    expect(textOf(server.room("doc").disk).length).toBe(60_000);
  });

  it("tells when everything is saved", async () => {
    const server = new Server();
    const document = await openDocument(server);
    type(document, "a");
    let told = false;
    void document.whenSaved().then(() => (told = true));
    await pass(0);
    expect(told).toBe(false);
    await pass(100);
    expect(told).toBe(true);
  });

  it("answers what the server asks", async () => {
    const server = new Server();
    const document = await openDocument(server);
    type(document, "known");
    await pass(100);
    const place = [...server.room("doc").places][0]!;
    place.send(11, (to) => {
      // An empty state vector: as data, its length and no clients.
      to.cbuf[to.cpos++] = 1;
      to.cbuf[to.cpos++] = 0;
    });
    await pass(100);
    expect(heard(server).at(-1)).toBe("update 2");
    expect(document.saved).toBe(true);
  });
});

describe("access", () => {
  it("to read keeps edits here, and says that they are not saved", async () => {
    const server = new Server();
    server.room("doc").writable = false;
    const document = await openDocument(server);
    expect(document.access).toBe("read");
    type(document, "mine");
    await pass(1_000);
    expect(heard(server).some((word) => word.startsWith("update"))).toBe(false);
    expect(document.saved).toBe(false);
  });

  it("to read does not make one's own what others wrote", async () => {
    const server = new Server();
    const room = server.room("doc");
    const writer = await openDocument(server);
    room.writable = false;
    const reader = await openDocument(server);
    room.writable = true;
    server.commits = false;
    type(writer, "a");
    await pass(100);
    expect(read(reader)).toBe("a");
    // The server loses it, and the reader is there again before the writer.
    server.onLine = () => (room.writable = server.lines.length !== 3);
    server.lines[1]!.end(1006);
    room.doc = room.disk;
    room.fresh = [];
    await pass(2_000);
    expect(reader.access).toBe("read");
    expect([reader.saved, reader.unsaved]).toEqual([true, 0]);
    // Who may write says what is lacking.
    for (const place of room.places) {
      if (place.line === server.lines[2]) place.send(10, (to) => encoding.writeUint8(to, 1));
    }
    room.writable = true;
    server.commits = true;
    await pass(100);
    expect(textOf(room.disk).toString()).toBe("a");
    expect(reader.saved).toBe(true);
  });

  it("that is withdrawn refuses one edit, whatever is saved later", async () => {
    const server = new Server();
    const document = await openDocument(server);
    const reasons: string[] = [];
    document.on("refused", (reason) => reasons.push(reason));
    server.commits = false;
    type(document, "a");
    await pass(100);
    server.room("doc").writable = false;
    type(document, "b");
    await pass(100);
    server.room("doc").writable = true;
    expect(reasons).toEqual(["You may only read."]);
    // One that doesn't need the refused one, so that the server can take it.
    document.doc.getMap("map").set("c", 1);
    await pass(100);
    server.commit();
    await pass(100);
    // Sent together with the next edit.
    expect(textOf(server.room("doc").disk).toString()).toBe("ab");
    expect(document.saved).toBe(true);
  });

  it("that is refused stays unsaved although a later one is saved", async () => {
    const server = new Server();
    server.commits = false;
    const document = await openDocument(server);
    server.room("doc").writable = false;
    document.doc.getMap("map").set("refused", 1);
    server.latency = 5;
    await pass(6);
    server.room("doc").writable = true;
    document.doc.getMap("map").set("taken", 1);
    await pass(100);
    server.commit();
    await pass(100);
    expect(document.saved).toBe(false);
    expect(document.unsaved).toBe(1);
  });

  it("that is given before a refusal arrives lets out what was refused", async () => {
    const server = new Server();
    const document = await openDocument(server);
    server.room("doc").writable = false;
    type(document, "a");
    await pass(25);
    server.room("doc").writable = true;
    await pass(5_000);
    expect(document.access).toBe("write");
    expect(document.saved).toBe(true);
    expect(textOf(server.room("doc").disk).toString()).toBe("a");
  });

  it("that is given lets out what waited", async () => {
    const server = new Server();
    const room = server.room("doc");
    room.writable = false;
    const document = await openDocument(server);
    type(document, "patience");
    await pass(100);
    room.writable = true;
    [...room.places][0]!.send(10, (to) => {
      to.cbuf[to.cpos++] = 1;
    });
    await pass(100);
    expect(document.access).toBe("write");
    expect(document.saved).toBe(true);
    expect(textOf(room.disk).toString()).toBe("patience");
  });

  it.each([4403, 4404, 4401])("that is denied is final: %i", async (code) => {
    const server = new Server();
    server.room("doc").closing = code;
    const document = await openDocument(server);
    const other = new CollabDocument(connect(server), "other");
    await pass(60_000);
    expect(document.status).toBe("closed");
    expect(document.error).toEqual({ code, reason: "closed by the test", final: true });
    expect(server.lines[0]!.heard.filter((word) => word.startsWith("open"))).toHaveLength(1);
    expect(other.synced).toBe(true);
  });

  it("may be asked for again", async () => {
    const server = new Server();
    server.room("doc").closing = 4403;
    const document = await openDocument(server);
    server.room("doc").closing = null;
    document.retry();
    await pass(200);
    expect(document.status).toBe("connected");
    expect(document.error).toBeNull();
  });

  it.each([4503, 1013, 1012])("that is not there now is tried again: %i", async (code) => {
    const server = new Server();
    server.room("doc").closing = code;
    const document = await openDocument(server);
    const seen: string[] = [];
    document.on("status", (status) => seen.push(status));
    await pass(100);
    expect(document.status).toBe("waiting");
    expect(document.error?.final).toBe(false);
    server.room("doc").closing = null;
    await pass(1_000);
    expect(document.status).toBe("connected");
    expect(seen).toEqual(["connecting", "connected"]);
    expect(server.lines.length).toBe(1);
  });
});

describe("tokens", () => {
  it("are fetched anew for each connection", async () => {
    const server = new Server();
    let count = 0;
    const token: Token = async (name) => `${name}-${(count += 1)}`;
    await openDocument(server, "doc", { client: { token } });
    expect(server.line.heard).toContain("open doc doc-1  0");
    server.crash();
    await pass(2_000);
    expect(server.line.heard).toContain("open doc doc-2 e1 0");
  });

  it("are shown again when the server wants that", async () => {
    const server = new Server();
    let count = 0;
    const document = await openDocument(server, "doc", { token: () => `t${(count += 1)}` });
    [...server.room("doc").places][0]!.send(5, (to) => {
      to.cbuf[to.cpos++] = 60;
    });
    await pass(100);
    expect(heard(server).at(-1)).toBe("token t2");
    expect(document.status).toBe("connected");
  });

  it("that can't be fetched are tried again", async () => {
    const server = new Server();
    let fails = 2;
    const token = async (): Promise<string> => {
      if ((fails -= 1) >= 0) throw new Error("no session");
      return "t";
    };
    const document = await openDocument(server, "doc", { token });
    expect(document.status).toBe("waiting");
    expect(document.error).toEqual({
      code: 0,
      reason: "There is no token: no session",
      final: false,
    });
    await pass(5_000);
    expect(document.status).toBe("connected");
    expect(document.error).toBeNull();
  });

  it("that can't be renewed are tried again, while the document stays open", async () => {
    const server = new Server();
    let count = 0;
    const document = await openDocument(server, "doc", {
      token: () => {
        if ((count += 1) === 2) throw new Error("not now");
        return `t${count}`;
      },
    });
    [...server.room("doc").places][0]!.send(5, (to) => {
      to.cbuf[to.cpos++] = 60;
    });
    await pass(2_000);
    expect(document.status).toBe("connected");
    expect(heard(server).at(-1)).toBe("token t3");
  });

  it("of another kind open what was denied", async () => {
    const server = new Server();
    const client = connect(server, { token: "visitor" });
    server.room("doc").closing = 4403;
    const document = new CollabDocument(client, "doc");
    await pass(100);
    expect(document.status).toBe("closed");
    server.room("doc").closing = null;
    client.setToken("owner");
    await pass(100);
    expect(document.status).toBe("connected");
    expect(heard(server)).toContain("open doc owner  0");
  });

  it("may be changed at any time", async () => {
    const server = new Server();
    const client = connect(server, { token: "a" });
    new CollabDocument(client, "doc");
    await pass(100);
    client.setToken("b");
    await pass(100);
    expect(heard(server).at(-1)).toBe("token b");
  });

  it("that are changed while the document is opened are shown", async () => {
    const server = new Server();
    const client = connect(server, { token: "a" });
    new CollabDocument(client, "doc");
    await pass(25);
    expect(server.line.heard).toContain("open doc a  0");
    client.setToken("b");
    await pass(100);
    expect(heard(server).at(-1)).toBe("token b");
  });

  it("that are changed while the old one is refused are tried", async () => {
    const server = new Server();
    const client = connect(server, { token: "a" });
    const document = new CollabDocument(client, "doc");
    server.room("doc").closing = 4401;
    await pass(25);
    server.room("doc").closing = null;
    client.setToken("b");
    await pass(1_000);
    expect(document.status).toBe("connected");
    expect(heard(server)).toContain("open doc b  0");
  });

  it("that are changed while the document moves are shown there, too", async () => {
    const server = new Server();
    const client = connect(server, { token: "a" });
    new CollabDocument(client, "doc");
    await pass(100);
    advise(server.line, 0, 0);
    await pass(36);
    expect(server.lines.length).toBe(2);
    client.setToken("b");
    await pass(1_000);
    expect(server.lines[0]!.over).toBe(true);
    expect(heard(server)).toContain("token b");
  });

  it.each<[string, () => Promise<string>]>([
    ["never come", () => new Promise(() => {})],
    ["are none", async () => undefined as unknown as string],
  ])("that %s are asked for again", async (_, none) => {
    const server = new Server();
    let asked = 0;
    const token = async (): Promise<string> => ((asked += 1) === 1 ? none() : "t");
    const document = await openDocument(server, "doc", { token });
    await pass(35_000);
    expect(document.status).toBe("connected");
  });
});

describe("presence", () => {
  it("of others is here, and comes back at once after a lost connection", async () => {
    const server = new Server();
    const one = await openDocument(server);
    const two = await openDocument(server);
    one.awareness.setLocalState({ name: "Ada" });
    await pass(100);
    const id = one.awareness.clientID;
    expect(two.awareness.getStates().get(id)).toEqual({ name: "Ada" });

    const changes: unknown[] = [];
    two.awareness.on("change", (change: { removed: number[] }) => {
      if (change.removed.includes(id)) changes.push(change);
    });
    server.lines[1]!.end(1006);
    await pass(2_000);
    expect(two.synced).toBe(true);
    expect(two.awareness.getStates().get(id)).toEqual({ name: "Ada" });
    // Nobody flickered.
    expect(changes).toEqual([]);
  });

  it("of who left meanwhile is gone with Synced", async () => {
    const server = new Server();
    const one = await openDocument(server);
    const two = await openDocument(server);
    await pass(100);
    server.lines[1]!.end(1006);
    one.destroy();
    await pass(2_000);
    expect(two.synced).toBe(true);
    expect([...two.awareness.getStates().keys()]).toEqual([two.awareness.clientID]);
  });

  it("of others fades when the connection is lost for long", async () => {
    const server = new Server();
    const one = await openDocument(server);
    const two = await openDocument(server);
    server.mode = "down";
    server.lines[1]!.end(1006);
    await pass(GRACE - 100);
    expect(two.awareness.getStates().has(one.awareness.clientID)).toBe(true);
    await pass(200);
    expect(two.awareness.getStates().has(one.awareness.clientID)).toBe(false);
    // With the clock that it had, which y-protocols alone would not take again.
    server.mode = "up";
    await pass(30_000);
    expect(two.awareness.getStates().has(one.awareness.clientID)).toBe(true);
  });

  it("ends for others when the document is destroyed", async () => {
    const server = new Server();
    const one = await openDocument(server);
    const two = await openDocument(server);
    one.destroy();
    await pass(50);
    expect(two.awareness.getStates().has(one.awareness.clientID)).toBe(false);
  });

  it("of others is not sent back", async () => {
    const server = new Server();
    const one = await openDocument(server);
    await openDocument(server);
    const before = heard(server).length;
    one.awareness.setLocalStateField("cursor", 7);
    await pass(100);
    expect(heard(server).length).toBe(before);
  });

  it("that is malformed ends the connection, and is forgotten", async () => {
    const server = new Server();
    const document = await openDocument(server);
    [...server.room("doc").places][0]!.send(3, (to) => {
      for (const octet of [4, 1, 1, 1, 9]) to.cbuf[to.cpos++] = octet;
    });
    await pass(100);
    expect(server.lines[0]!.closed?.code).toBe(4400);
    await pass(2_000);
    expect(document.synced).toBe(true);
  });

  it("works with what another provider brings", async () => {
    const server = new Server();
    const one = await openDocument(server);
    const two = await openDocument(server);
    one.awareness.setLocalState({ name: "Ada" });
    const id = one.awareness.clientID;
    applyAwarenessUpdate(two.awareness, encodeAwarenessUpdate(one.awareness, [id]), "other");
    await pass(100);
    expect(two.awareness.getStates().get(id)).toEqual({ name: "Ada" });
  });
});

describe("messages", () => {
  it("reach the others once", async () => {
    const server = new Server();
    const one = await openDocument(server);
    const two = await openDocument(server);
    const got: [number[], string][] = [];
    two.on("message", (payload, user) => got.push([[...payload], user]));
    expect(one.send(new Uint8Array([1, 2, 3]))).toBe(true);
    expect(one.send(new Uint8Array([4]), "zoë")).toBe(true);
    await pass(100);
    expect(got).toEqual([
      [[1, 2, 3], "somebody"],
      [[4], "somebody"],
    ]);
    expect(server.lines[0]!.heard).toContain("message zoë");
  });

  it("come once also to who moves", async () => {
    const server = new Server();
    const one = await openDocument(server);
    const two = await openDocument(server);
    // Another one that has to come along keeps both connections open.
    let asked = 0;
    const token = (): Promise<string> => {
      const wait = (asked += 1) === 1 ? 0 : 200;
      return new Promise((resolve) => setTimeout(() => resolve("t"), wait));
    };
    new CollabDocument(two["client"], "other", { token });
    await pass(100);
    const got: number[] = [];
    two.on("message", ([number]) => got.push(number!));
    advise(server.line, 0, 0);
    await pass(100);
    expect(server.lines[1]!.over).toBe(false);
    one.send(new Uint8Array([1]));
    await pass(1_000);
    expect(server.lines[1]!.over).toBe(true);
    one.send(new Uint8Array([2]));
    await pass(100);
    expect(got).toEqual([1, 2]);
  });

  it("are not sent without a connection, and not later", async () => {
    const server = new Server();
    const document = await openDocument(server);
    server.crash();
    expect(document.send(new Uint8Array(1))).toBe(false);
    await pass(2_000);
    expect(heard(server).some((word) => word.startsWith("message"))).toBe(false);
  });

  it("have a size", async () => {
    const document = await openDocument(new Server());
    expect(() => document.send(new Uint8Array(65_537))).toThrow(RangeError);
  });
});

describe("an error in the application", () => {
  it("loses nothing of what came with it", async () => {
    const server = new Server();
    const document = await openDocument(server);
    const thrown = vi.fn();
    process.once("uncaughtException", thrown);
    document.on("message", () => {
      throw new Error("ours");
    });
    const place = [...server.room("doc").places][0]!;
    place.send(4, (to) => {
      for (const octet of [0, 0]) to.cbuf[to.cpos++] = octet;
    });
    server.edit("doc", (doc) => textOf(doc).insert(0, "still"));
    await pass(100);
    expect(thrown).toHaveBeenCalledOnce();
    expect(read(document)).toBe("still");
  });

  function fail(): never {
    throw new Error("ours");
  }

  it.each(["status", "synced", "error", "saved"] as const)(
    "when it is told %s holds up no document, and nobody who waits",
    async (event) => {
      const server = new Server();
      const client = connect(server);
      const one = new CollabDocument(client, "one");
      const two = new CollabDocument(client, "two");
      let waited = 0;
      await whileThrowing(async () => {
        one.on(event, fail);
        client.on("status", fail);
        void one.whenSynced.then(() => (waited += 1));
        await pass(100);
        type(one, "a");
        void one.whenSaved().then(() => (waited += 1));
        server.line.end(1006);
        await pass(2_000);
        expect([one.synced, two.synced, one.saved, waited]).toEqual([true, true, true, 2]);
        client.destroy();
      });
      await pass(100);
      expect(server.room("one").places.size).toBe(0);
    },
  );

  it("when it shows who is here holds up nothing either", async () => {
    const server = new Server();
    const other = await openDocument(server, "one");
    const client = connect(server);
    const one = new CollabDocument(client, "one");
    const two = new CollabDocument(client, "two");
    const sees = (): boolean => one.awareness.getStates().has(other.awareness.clientID);
    await whileThrowing(async () => {
      one.awareness.on("change", fail);
      one.awareness.on("update", fail);
      await pass(100);
      expect([one.synced, two.synced, sees()]).toEqual([true, true, true]);
      server.line.end(1006);
      await pass(2_000);
      expect([one.synced, two.synced, sees()]).toEqual([true, true, true]);
      other.destroy();
      await pass(100);
      expect(sees()).toBe(false);
      one.destroy();
    });
    await pass(100);
    expect(server.room("one").places.size).toBe(0);
  });
});

it("documents share one connection, and give it up when none is left", async () => {
  const server = new Server();
  const client = connect(server);
  const documents = ["a", "b", "c"].map((name) => new CollabDocument(client, name));
  await pass(100);
  expect(server.lines.length).toBe(1);
  expect(documents.every(({ synced }) => synced)).toBe(true);
  documents[0]!.destroy();
  await pass(5_000);
  expect(client.status).toBe("connected");
  documents[1]!.destroy();
  documents[2]!.destroy();
  await pass(5_000);
  expect(client.status).toBe("disconnected");
  expect(server.line.closed?.code).toBe(1000);
  const again = new CollabDocument(client, "a");
  await pass(200);
  expect(again.synced).toBe(true);
});
