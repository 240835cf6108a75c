import * as decoding from "lib0/decoding";
import * as encoding from "lib0/encoding";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { writeSyncStep1, writeSyncStep2, writeUpdate } from "y-protocols/sync";
import { WebsocketProvider } from "y-websocket";
import * as Y from "yjs";
import { createTracker, watchSaved } from "../src/saved";

/** "A" inserted into "t" by client 1, as `[0]` creates nothing and deletes that "A". */
const INSERT = Uint8Array.from([1, 1, 1, 0, 4, 1, 1, 0x74, 1, 0x41, 0]);
const DELETE = Uint8Array.from([0, 1, 1, 1, 0, 1]);

describe("the tracker", () => {
  it("waits for an edit until its bytes come back", () => {
    const tracker = createTracker();
    tracker.opened();
    tracker.edited(INSERT);
    expect(tracker.waiting.size).toBe(1);
    expect(tracker.received(INSERT.slice())).toBe("saved");
    expect(tracker.waiting.size).toBe(0);
  });

  it("learns nothing from the edits of others", () => {
    const tracker = createTracker();
    tracker.opened();
    tracker.edited(INSERT);
    expect(tracker.received(DELETE)).toBe("foreign");
    expect(tracker.received(INSERT.slice(0, -1))).toBe("foreign");
    expect(tracker.waiting.size).toBe(1);
  });

  it("believes only the second return of a deletion, which others can write too", () => {
    const tracker = createTracker();
    tracker.opened();
    tracker.edited(DELETE);
    expect(tracker.received(DELETE)).toBe("repeat");
    expect(tracker.waiting.size).toBe(1);
    expect(tracker.received(DELETE)).toBe("saved");
    expect(tracker.waiting.size).toBe(0);
  });

  it("doesn't believe in an answer to what was sent on an earlier connection", () => {
    const tracker = createTracker();
    tracker.opened();
    tracker.edited(INSERT);
    tracker.opened();
    expect(tracker.received(INSERT)).toBe("foreign");
    expect(tracker.waiting.size).toBe(1);
  });

  it("saves everything that a second step holds, and nothing made after it", () => {
    const tracker = createTracker();
    tracker.edited(INSERT);
    tracker.edited(DELETE);
    tracker.opened();
    const all = Y.mergeUpdates([INSERT, DELETE]);
    tracker.answered(all);
    const later = Uint8Array.from([1, 1, 1, 1, 0x84, 1, 0, 1, 0x42, 0]);
    tracker.edited(later);
    expect(tracker.received(all)).toBe("repeat");
    expect(tracker.received(all)).toBe("saved");
    expect([...tracker.waiting.values()]).toEqual([later]);
  });

  it("waits for nothing when a second step brings nothing", () => {
    const tracker = createTracker();
    tracker.opened();
    tracker.answered(Uint8Array.from([0, 0]));
    expect(tracker.waiting.size).toBe(0);
    expect(tracker.received(Uint8Array.from([0, 0]))).toBe("foreign");
  });
});

/** A socket that writes down what is sent and lets a test be the server. */
class Socket {
  static last: Socket;
  readonly OPEN = 1;
  readyState = 0;
  sent: Uint8Array[] = [];
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: ArrayBuffer }) => void) | null = null;
  onclose: ((event: { code: number; reason: string }) => void) | null = null;

  constructor() {
    Socket.last = this;
  }
  send(data: Uint8Array): void {
    this.sent.push(data);
  }
  close(): void {}
  open(): void {
    this.readyState = 1;
    this.onopen?.();
  }
  drop(): void {
    this.readyState = 3;
    this.onclose?.({ code: 1006, reason: "" });
  }
  receive(write: (encoder: encoding.Encoder) => void): void {
    const encoder = encoding.createEncoder();
    encoding.writeVarUint(encoder, 0);
    write(encoder);
    this.onmessage?.({ data: encoding.toUint8Array(encoder).slice().buffer });
  }
  /** The updates that were sent, as second step or on their own. */
  get updates(): Uint8Array[] {
    return this.sent.flatMap((frame) => {
      const decoder = decoding.createDecoder(frame);
      const channel = decoding.readVarUint(decoder);
      if (channel !== 0 || decoding.readVarUint(decoder) === 0) return [];
      return [decoding.readVarUint8Array(decoder)];
    });
  }
}

describe("a provider that is watched", () => {
  let doc: Y.Doc;
  let text: Y.Text;
  let provider: WebsocketProvider;
  let waiting: number;
  const server = new Y.Doc();

  beforeEach(() => {
    vi.useFakeTimers();
    doc = new Y.Doc();
    text = doc.getText("text");
    provider = new WebsocketProvider("ws://server", "doc", doc, {
      WebSocketPolyfill: Socket as unknown as typeof WebSocket,
      disableBc: true,
    });
    waiting = 0;
    watchSaved(provider, (count) => {
      waiting = count;
    });
  });

  afterEach(() => {
    provider.destroy();
    vi.useRealTimers();
  });

  /** Open the connection and sync it both ways; returns the client's second step. */
  function sync(): Uint8Array {
    const socket = Socket.last;
    socket.open();
    socket.receive((encoder) => writeSyncStep2(encoder, server));
    socket.receive((encoder) => writeSyncStep1(encoder, server));
    return socket.updates.at(-1)!;
  }

  function echo(update: Uint8Array): void {
    Socket.last.receive((encoder) => writeUpdate(encoder, update));
  }

  it("has saved an insertion when it came back", () => {
    sync();
    text.insert(0, "hello");
    expect(waiting).toBe(1);
    echo(Socket.last.updates.at(-1)!);
    expect(waiting).toBe(0);
  });

  it("sends a deletion twice and waits for both", () => {
    sync();
    text.insert(0, "hello");
    echo(Socket.last.updates.at(-1)!);
    text.delete(0, 2);
    const deletion = Socket.last.updates.at(-1)!;
    echo(deletion);
    expect(waiting).toBe(1);
    expect(Socket.last.updates.slice(-2)).toEqual([deletion, deletion]);
    echo(deletion);
    expect(waiting).toBe(0);
  });

  it("keeps what was written offline until the next second step is saved", () => {
    sync();
    text.insert(0, "on");
    Socket.last.drop();
    text.insert(2, "off");
    expect(waiting).toBe(2);
    vi.advanceTimersByTime(5_000);
    const all = sync();
    text.insert(5, "!");
    expect(waiting).toBe(3);
    echo(all);
    expect(waiting).toBe(3);
    echo(all);
    expect(waiting).toBe(1);
    echo(Socket.last.updates.find((update) => update !== all && update[0] === 1 && update.length < all.length)!);
    expect(waiting).toBe(0);
  });

  it("isn't taken in by an update that another client brings back after a crash", () => {
    text.insert(0, "lost");
    const other = new Y.Doc();
    Y.applyUpdate(other, Y.encodeStateAsUpdate(doc));
    const all = sync();
    // The other one holds the same edits, was faster, and isn't on disk yet.
    echo(Y.encodeStateAsUpdate(other));
    expect(Y.encodeStateAsUpdate(other)).toEqual(all);
    expect(waiting).toBe(1);
  });

  it("says nothing about what others write", () => {
    sync();
    text.insert(0, "mine");
    const other = new Y.Doc();
    other.getText("text").insert(0, "theirs");
    echo(Y.encodeStateAsUpdate(other));
    expect(text.toString()).toContain("theirs");
    expect(waiting).toBe(1);
  });

  it("asks again, more and more rarely, when no answer comes", () => {
    sync();
    text.insert(0, "hello");
    const sent = () => Socket.last.updates.length;
    const before = sent();
    const renew = (seconds: number) => {
      // Something must come in, or the provider gives the connection up.
      for (let second = 0; second < seconds; second += 1) {
        vi.advanceTimersByTime(1_000);
        Socket.last.receive((encoder) => writeSyncStep2(encoder, server));
      }
    };
    renew(11);
    expect(sent()).toBe(before + 1);
    renew(20);
    expect(sent()).toBe(before + 2);
    const again = Socket.last.updates.at(-1)!;
    echo(again);
    expect(waiting).toBe(0);
  });
});

/** What an update creates and deletes, item by item. */
function contents(update: Uint8Array): string[] {
  const { structs, ds } = Y.decodeUpdate(update);
  const items: string[] = [];
  for (const { id, length } of structs) {
    for (let at = 0; at < length; at += 1) items.push(`+${id.client}:${id.clock + at}`);
  }
  for (const [client, ranges] of ds.clients) {
    for (const { clock, len } of ranges) {
      for (let at = 0; at < len; at += 1) items.push(`-${client}:${clock + at}`);
    }
  }
  return items;
}

/** A small, seeded generator, so that a run that failed can be repeated. */
function random(seed: number): (limit: number) => number {
  return (limit) => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return Math.floor((seed / 2 ** 32) * limit);
  };
}

describe("with a server that crashes and shares what it hasn't saved", () => {
  it.each(Array.from({ length: 60 }, (_, seed) => seed))(
    "never calls an edit saved that is not on disk (seed %i)",
    (seed) => {
      const below = random(seed);
      const disk = new Set<string>();
      const log: Uint8Array[] = [];
      let memory = new Y.Doc();
      /** What the server holds but hasn't committed: updates, and who to answer. */
      let pending: { update: Uint8Array; author: Client }[] = [];

      class Client {
        doc = new Y.Doc();
        tracker = createTracker();
        inbox: Uint8Array[] = [];
        edits: Uint8Array[] = [];
        online = false;
        constructor(id: number) {
          this.doc.clientID = id;
          this.doc.on("update", (update: Uint8Array, origin: unknown) => {
            if (origin === "server") return;
            this.edits.push(update);
            this.tracker.edited(update);
            if (this.online) submit(this, update);
          });
        }
        connect(): void {
          this.online = true;
          this.inbox = [];
          this.tracker.opened();
          Y.applyUpdate(this.doc, Y.encodeStateAsUpdate(memory), "server");
          const all = Y.encodeStateAsUpdate(this.doc, Y.encodeStateVector(memory));
          this.tracker.answered(all);
          submit(this, all);
        }
        receive(): void {
          for (const update of this.inbox.splice(0)) {
            Y.applyUpdate(this.doc, update, "server");
            if (this.tracker.received(update) === "repeat") submit(this, update);
          }
        }
        edit(): void {
          const text = this.doc.getText("text");
          if (below(2) === 0 && text.length > 0) text.delete(below(text.length), 1);
          else text.insert(below(text.length + 1), String.fromCharCode(97 + below(26)));
        }
        /** Everything that isn't waiting must be on disk. */
        check(): void {
          const waiting = new Set(this.tracker.waiting.values());
          for (const update of this.edits) {
            if (!waiting.has(update)) expect(onDisk(update)).toBe(true);
          }
        }
      }

      const onDisk = (update: Uint8Array): boolean =>
        contents(update).every((item) => disk.has(item));

      const submit = (author: Client, update: Uint8Array): void => {
        const before = Y.encodeStateAsUpdate(memory);
        Y.applyUpdate(memory, update);
        const news = !equal(before, Y.encodeStateAsUpdate(memory));
        if (news) {
          for (const client of clients) {
            if (client !== author && client.online) client.inbox.push(update);
          }
        }
        pending.push({ update, author });
      };

      const commit = (): void => {
        for (const { update, author } of pending.splice(0)) {
          log.push(update);
          for (const item of contents(update)) disk.add(item);
          if (author.online) author.inbox.push(update);
        }
      };

      const crash = (): void => {
        pending = [];
        memory = new Y.Doc();
        for (const update of log) Y.applyUpdate(memory, update);
        for (const client of clients) client.online = false;
      };

      const clients: Client[] = [new Client(1), new Client(2), new Client(3)];
      for (const client of clients) client.connect();
      for (let step = 0; step < 150; step += 1) {
        const client = clients[below(3)]!;
        const dice = below(12);
        if (dice < 5) client.edit();
        else if (dice < 9) client.receive();
        else if (dice < 11) commit();
        else if (below(4) === 0) crash();
        else if (!client.online) client.connect();
        for (const each of clients) each.check();
      }
      for (const client of clients) if (!client.online) client.connect();
      for (let round = 0; round < 4; round += 1) {
        commit();
        for (const client of clients) client.receive();
      }
      for (const client of clients) {
        expect(client.tracker.waiting.size).toBe(0);
        client.check();
      }
    },
  );
});

function equal(left: Uint8Array, right: Uint8Array): boolean {
  return left.length === right.length && left.every((byte, at) => byte === right[at]);
}
