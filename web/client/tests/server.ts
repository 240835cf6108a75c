/**
 * A server of `collab.v1` in memory, written from docs/protocol.md with lib0 alone.
 *
 * What is committed survives a crash, what is not doesn't: so `disk` tells whether an
 * acknowledgement was true.
 */

import * as decoding from "lib0/decoding";
import * as encoding from "lib0/encoding";
import * as Y from "yjs";
import type { Handlers, Transport } from "../src/transport.js";

type Encoder = encoding.Encoder;

/** A document: what is on disk, and what is in memory beyond. */
export class Room {
  epoch = "e1";
  log: { update: Uint8Array; vector: Uint8Array }[] = [];
  /** How much of the log is in memory; others may have written what is behind it. */
  position = 0;
  fresh: { update: Uint8Array; from: Place; sequence: number }[] = [];
  /** What the log adds up to. */
  folded = new Y.Doc();
  doc = new Y.Doc();
  places = new Set<Place>();
  states = new Map<number, { clock: number; state: string; owner: Place; heir?: Place }>();
  writable = true;
  /** Answer the next Opens with this code. */
  closing: number | null = null;

  /** What is on disk, folded anew. */
  get disk(): Y.Doc {
    const doc = new Y.Doc();
    for (const { update } of this.log) Y.applyUpdate(doc, update);
    return doc;
  }
}

/** A client's place in a document: a channel of a connection. */
export class Place {
  readonly line: Line;
  readonly channel: number;
  readonly room: Room;
  token: string;

  constructor(line: Line, channel: number, room: Room, token: string) {
    this.line = line;
    this.channel = channel;
    this.room = room;
    this.token = token;
  }

  send(kind: number, write: (to: Encoder) => void = () => {}): void {
    this.line.send(this.channel, kind, write);
  }
}

/** A connection, as the server sees it. */
export class Line {
  readonly places = new Map<number, Place>();
  /** What the client said, in words. */
  readonly heard: string[] = [];
  readonly frames: Uint8Array[] = [];
  over = false;
  isOpen = false;
  /** Whether frames vanish, in both directions, and no end is told. */
  dead = false;
  /** Octets to the client after which the connection is cut; Infinity for never. */
  budget = Infinity;
  sent = 0;
  /** What the client's side of it still has to send. */
  buffered = 0;
  closed: { code: number; reason: string } | null = null;

  readonly server: Server;
  readonly handlers: Handlers;

  constructor(server: Server, handlers: Handlers) {
    this.server = server;
    this.handlers = handlers;
  }

  send(channel: number, kind: number, write: (to: Encoder) => void = () => {}): void {
    const encoder = encoding.createEncoder();
    encoding.writeVarUint(encoder, channel);
    encoding.writeVarUint(encoder, kind);
    write(encoder);
    this.sendFrame(encoding.toUint8Array(encoder));
  }

  sendFrame(frame: Uint8Array): void {
    this.later(() => {
      if (this.sent + frame.length > this.budget) return this.end(1006, "");
      this.sent += frame.length;
      this.handlers.onFrame(frame);
    });
  }

  /** Tell the client that it is over. */
  end(code: number, reason = ""): void {
    if (this.over) return;
    this.drop();
    this.handlers.onClose(code, reason);
  }

  /** Forget the connection. */
  drop(): void {
    this.over = true;
    for (const place of this.places.values()) this.server.left(place);
    this.places.clear();
  }

  later(act: () => void): void {
    setTimeout(() => {
      if (!this.over && !this.dead) act();
    }, this.server.latency);
  }
}

export class Server {
  /** The other servers of the same database. */
  readonly others: Server[] = [];
  readonly rooms = new Map<string, Room>();
  readonly lines: Line[] = [];
  /** Milliseconds one way. */
  latency = 10;
  heartbeat = 25_000;
  size = 16 * 1024 * 1024;
  /** How attempts to connect end: they succeed, fail, or nothing comes back. */
  mode: "up" | "down" | "silent" = "up";
  /** Whether what arrives is committed at once. */
  commits = true;
  /** Whether Saved is lost on the way. */
  mute = false;
  /** Called with each new connection, before anything is sent. */
  onLine: (line: Line) => void = () => {};

  readonly transport: Transport = {
    name: "memory",
    open: (_url, handlers) => {
      const line = new Line(this, handlers);
      this.lines.push(line);
      this.onLine(line);
      if (this.mode === "down") setTimeout(() => line.end(1006), this.latency);
      if (this.mode === "up") {
        line.later(() => {
          line.isOpen = true;
          handlers.onOpen();
        });
        const beat = setInterval(() => {
          if (line.over) clearInterval(beat);
          else if (line.isOpen) line.send(0, 1, (to) => encoding.writeVarUint(to, 0));
        }, this.heartbeat);
      }
      return {
        get buffered() {
          return line.buffered;
        },
        send: (frame) => line.later(() => this.receive(line, frame)),
        close: (code, reason) => {
          line.closed = { code, reason };
          // What was sent before still arrives.
          setTimeout(() => line.drop(), this.latency);
          line.handlers.onFrame = line.handlers.onClose = line.handlers.onOpen = () => {};
        },
      };
    },
  };

  room(name: string): Room {
    let room = this.rooms.get(name);
    if (room === undefined) {
      this.rooms.set(name, (room = new Room()));
      for (const other of this.others) {
        const { log, folded } = other.room(name);
        Object.assign(room, { log, folded });
      }
      this.catchUp(room);
    }
    return room;
  }

  /** Read what other servers wrote, and pass it on. */
  catchUp(room: Room): void {
    for (const { update } of room.log.slice(room.position)) {
      Y.applyUpdate(room.doc, update);
      room.position += 1;
      this.relay(room, update, null);
    }
  }

  /** The newest connection. */
  get line(): Line {
    return this.lines.at(-1)!;
  }

  /** Lose what is in memory, and all connections. */
  crash(code = 1006): void {
    for (const room of this.rooms.values()) {
      room.fresh = [];
      room.doc = room.disk;
      room.position = room.log.length;
      room.states.clear();
    }
    for (const line of this.lines) line.end(code);
  }

  /** Put on disk what is in memory, and say so. */
  commit(): void {
    for (const [name, room] of this.rooms) {
      const fresh = room.fresh;
      if (fresh.length > 0) this.catchUp(room);
      room.fresh = [];
      const saved = new Map<Place, number>();
      for (const { update, from, sequence } of fresh) {
        this.append(room, update);
        saved.set(from, sequence);
      }
      for (const other of fresh.length > 0 ? this.others : []) {
        setTimeout(() => other.catchUp(other.room(name)), this.latency);
      }
      for (const [place, sequence] of saved) {
        if (this.mute || place.line.places.get(place.channel) !== place) continue;
        place.send(8, (to) => {
          encoding.writeVarUint(to, sequence);
          encoding.writeVarUint(to, room.position);
        });
      }
    }
  }

  /** Let somebody without a connection edit. */
  edit(name: string, change: (doc: Y.Doc) => void): void {
    const room = this.room(name);
    const doc = new Y.Doc();
    Y.applyUpdate(doc, Y.encodeStateAsUpdate(room.doc));
    const before = Y.encodeStateVector(doc);
    change(doc);
    const update = Y.encodeStateAsUpdate(doc, before);
    Y.applyUpdate(room.doc, update);
    this.append(room, update);
    this.relay(room, update, null);
  }

  left(place: Place): void {
    const { room } = place;
    room.places.delete(place);
    for (const [client, { clock, owner, state, heir }] of room.states) {
      if (owner !== place) continue;
      if (heir?.line.places.get(heir.channel) === heir && heir !== undefined) {
        room.states.set(client, { clock, state, owner: heir });
        for (const other of room.places) {
          if (other !== heir) other.send(3, (to) => writeStates(to, [[client, clock, state]]));
        }
        continue;
      }
      room.states.delete(client);
      for (const other of room.places) {
        other.send(3, (to) => writeStates(to, [[client, clock, "null"]]));
      }
    }
  }

  private append(room: Room, update: Uint8Array): void {
    Y.applyUpdate(room.folded, update);
    room.log.push({ update, vector: Y.encodeStateVector(room.folded) });
    room.position = room.log.length;
  }

  private relay(room: Room, update: Uint8Array, from: Place | null): void {
    for (const place of room.places) {
      if (place === from) continue;
      place.send(2, (to) => {
        // All that was committed before was relayed before.
        encoding.writeVarUint(to, room.fresh.length > 0 ? 0 : room.position);
        encoding.writeVarUint8Array(to, update);
      });
    }
  }

  receive(line: Line, frame: Uint8Array): void {
    line.frames.push(frame);
    const from = decoding.createDecoder(frame);
    while (decoding.hasContent(from)) {
      const channel = decoding.readVarUint(from);
      const kind = decoding.readVarUint(from);
      if (channel === 0) this.receiveOwn(line, kind, from);
      else this.receiveDocument(line, channel, kind, from);
    }
  }

  private receiveOwn(line: Line, kind: number, from: decoding.Decoder): void {
    if (kind === 0) {
      line.heard.push(`hello ${decoding.readVarString(from).split("/")[0]}`);
      line.send(0, 0, (to) => {
        encoding.writeVarUint(to, 1);
        encoding.writeVarString(to, `c${this.lines.length}`);
        encoding.writeVarUint(to, this.heartbeat);
        encoding.writeVarUint(to, this.size);
      });
    } else {
      const number = decoding.readVarUint(from);
      line.heard.push(`ping ${number}`);
      line.send(0, 1, (to) => encoding.writeVarUint(to, number));
    }
  }

  private receiveDocument(
    line: Line,
    channel: number,
    kind: number,
    from: decoding.Decoder,
  ): void {
    if (kind === 0) {
      const name = decoding.readVarString(from);
      const token = decoding.readVarString(from);
      const vector = decoding.readVarUint8Array(from);
      const epoch = decoding.readVarString(from);
      const position = decoding.readVarUint(from);
      line.heard.push(`open ${name} ${token} ${epoch} ${position}`);
      return this.open(line, channel, this.room(name), { token, vector, epoch, position });
    }
    const place = line.places.get(channel);
    if (kind === 1) {
      line.heard.push("close");
      if (place === undefined) return;
      line.places.delete(channel);
      this.left(place);
      place.send(1, (to) => {
        encoding.writeVarUint(to, 1000);
        encoding.writeVarString(to, "");
      });
    } else if (kind === 2) {
      const sequence = decoding.readVarUint(from);
      const update = decoding.readVarUint8Array(from);
      line.heard.push(`update ${sequence}`);
      if (place !== undefined) this.update(place, sequence, update);
    } else if (kind === 3) {
      const states = decoding.readVarUint8Array(from);
      line.heard.push("presence");
      if (place !== undefined) this.presence(place, states);
    } else if (kind === 4) {
      const user = decoding.readVarString(from);
      const payload = decoding.readVarUint8Array(from);
      line.heard.push(`message ${user}`);
      for (const other of place?.room.places ?? []) {
        if (other === place) continue;
        other.send(4, (to) => {
          encoding.writeVarString(to, "somebody");
          encoding.writeVarUint8Array(to, payload);
        });
      }
    } else {
      const token = decoding.readVarString(from);
      line.heard.push(`token ${token}`);
      if (place !== undefined) place.token = token;
    }
  }

  open(
    line: Line,
    channel: number,
    room: Room,
    asked: { token: string; vector: Uint8Array; epoch: string; position: number },
    known: Map<number, number> | null = null,
  ): void {
    if (room.closing !== null) {
      const code = room.closing;
      line.send(channel, 1, (to) => {
        encoding.writeVarUint(to, code);
        encoding.writeVarString(to, "closed by the test");
      });
      return;
    }
    if (asked.position > room.position) this.catchUp(room);
    const place = new Place(line, channel, room, asked.token);
    const before = line.places.get(channel);
    line.places.set(channel, place);
    room.places.add(place);
    if (before !== undefined) {
      // The same client, over HTTP: what it announced and waits for is its own.
      room.places.delete(before);
      for (const state of room.states.values()) {
        if (state.owner === before) state.owner = place;
        if (state.heir === before) state.heir = place;
      }
      for (const one of room.fresh) if (one.from === before) one.from = place;
    }

    const theirs = Y.decodeStateVector(asked.vector);
    const covers = (vector: Uint8Array): boolean =>
      [...Y.decodeStateVector(vector)].every(
        ([client, clock]) => (theirs.get(client) ?? 0) >= clock,
      );
    const at = room.log[asked.position - 1];
    let pieces: Uint8Array[];
    const fresh = room.fresh.map(({ update }) => update);
    const log = room.log.slice(0, room.position);
    if (theirs.size === 0) pieces = [...log.map(({ update }) => update), ...fresh];
    else if (asked.epoch === room.epoch && at !== undefined && covers(at.vector)) {
      const slice = log.slice(asked.position).map(({ update }) => update);
      pieces = [...slice, ...fresh];
    } else pieces = [Y.encodeStateAsUpdate(room.doc, asked.vector)];

    const head = room.position;
    place.send(0, (to) => {
      encoding.writeUint8(to, room.writable ? 1 : 0);
      encoding.writeVarString(to, room.epoch);
      encoding.writeVarUint(to, head);
      encoding.writeVarUint(to, pieces.reduce((sum, piece) => sum + piece.length, 0));
      encoding.writeVarUint8Array(to, Y.encodeStateVector(room.doc));
    });
    const states = [...room.states]
      .filter(([client, { clock, owner }]) => owner !== place && known?.get(client) !== clock)
      .map(([client, { clock, state }]): State => [client, clock, state]);
    for (const [client, clock] of known ?? []) {
      if (!room.states.has(client)) states.push([client, clock, "null"]);
    }
    if (states.length > 0) place.send(3, (to) => writeStates(to, states));
    for (const piece of pieces) {
      place.send(6, (to) => encoding.writeVarUint8Array(to, piece));
    }
    place.send(7, (to) => encoding.writeVarUint(to, head));
  }

  private update(place: Place, sequence: number, update: Uint8Array): void {
    const { room } = place;
    if (!room.writable) {
      place.send(9, (to) => {
        encoding.writeVarUint(to, sequence);
        encoding.writeVarString(to, "You may only read.");
      });
      return;
    }
    Y.applyUpdate(room.doc, update);
    room.fresh.push({ update, from: place, sequence });
    this.relay(room, update, place);
    if (this.commits) this.commit();
  }

  private presence(place: Place, states: Uint8Array): void {
    const { room } = place;
    const from = decoding.createDecoder(states);
    for (let count = decoding.readVarUint(from); count > 0; count -= 1) {
      const client = decoding.readVarUint(from);
      const clock = decoding.readVarUint(from);
      const state = decoding.readVarString(from);
      const known = room.states.get(client);
      if (known !== undefined && known.owner !== place) {
        // Who speaks for a client of another connection inherits it, at best.
        if (clock >= known.clock) Object.assign(known, { clock, state, heir: place });
        continue;
      }
      if (state === "null") room.states.delete(client);
      else room.states.set(client, { ...known, clock, state, owner: place });
      for (const other of room.places) {
        if (other !== place) other.send(3, (to) => writeStates(to, [[client, clock, state]]));
      }
    }
  }
}

type State = [client: number, clock: number, state: string];

function writeStates(to: Encoder, states: State[]): void {
  const encoder = encoding.createEncoder();
  encoding.writeVarUint(encoder, states.length);
  for (const [client, clock, state] of states) {
    encoding.writeVarUint(encoder, client);
    encoding.writeVarUint(encoder, clock);
    encoding.writeVarString(encoder, state);
  }
  encoding.writeVarUint8Array(to, encoding.toUint8Array(encoder));
}
