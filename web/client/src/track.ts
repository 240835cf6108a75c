/**
 * What requests must say of a channel, as none of them depends on another.
 *
 * To the client a channel is opened once. To the server it is opened by each request:
 * so what the server says again is taken out, and what it must know is remembered.
 */

import * as encoding from "lib0/encoding";
import * as Y from "yjs";
import { readStates } from "./wire.js";
import type { ClientDocumentMessage, ServerDocumentMessage } from "./wire.js";

/** The close code for a document that has to be opened anew. */
const ANOTHER = 4509;

/**
 * Milliseconds that a server may lack what we know to be there: another one, with the
 * same database, learns of it a little later.
 */
export const DOUBT = 5_000;

type Vector = Map<number, number>;

type Open = Extract<ClientDocumentMessage, { type: "Open" }>;

/** What is to be said. */
interface Saying {
  message: ClientDocumentMessage;
  octets: number;
}

export class Track {
  /** Whether the server has opened it. */
  opened = false;
  /** Whether it was closed here, which is still to be said. */
  leaving = false;
  /** Until when the server may lack something, as `Date.now` counts; 0 if it doesn't. */
  doubted = 0;
  token: string;
  /** What is not answered, oldest first. */
  waiting: Saying[] = [];

  private readonly channel: number;
  private readonly name: string;
  private epoch: string;
  private position: number;
  /** What is in the document. */
  private readonly ours: Vector;
  /** What the server has of that. */
  private readonly theirs: Vector = new Map();
  /** What came and is not in these yet. */
  private pieces: Uint8Array[] = [];
  /** What the server will have sent when it says Synced. */
  private promised: Vector | null = null;
  private writable = false;
  /** Whether a position that comes says that everything up to there is here. */
  private synced = false;
  /** The clocks of those who are here. */
  private readonly known: Vector = new Map();

  constructor({ channel, name, token, vector, epoch, position }: Open) {
    this.channel = channel;
    this.name = name;
    this.token = token;
    this.ours = Y.decodeStateVector(vector);
    this.epoch = epoch;
    this.position = position;
  }

  get buffered(): number {
    return this.waiting.reduce((sum, { octets }) => sum + octets, 0);
  }

  /** What a request that listens begins with. */
  ask(): ClientDocumentMessage {
    this.promised = null;
    this.synced = false;
    this.fold();
    const { channel, name, token, epoch, position } = this;
    const vector = Y.encodeStateVector(this.ours);
    const open = { channel, name, token, vector, epoch, position };
    if (!this.opened) return { type: "Open", ...open };
    return { type: "Resume", ...open, known: writeKnown(this.known) };
  }

  /** What stands before all that a push says of the channel. */
  introduce(): ClientDocumentMessage {
    const { channel, name, token, epoch } = this;
    return { type: "Open", channel, name, token, vector: NOTHING, epoch, position: 0 };
  }

  /** Note something that is to be said. */
  say(message: ClientDocumentMessage): void {
    let octets = ROOM;
    if (message.type === "Update") {
      octets += message.update.length;
      raise(this.ours, ends(message.update));
    } else if (message.type === "Message") {
      octets += message.payload.length;
    } else if (message.type === "Presence") {
      octets += message.states.length;
      this.note(message.states);
      // The latest tells all.
      this.waiting = this.waiting.filter(({ message: { type } }) => type !== "Presence");
    }
    this.waiting.push({ message, octets });
  }

  /** Note that these were answered; updates wait until they are named. */
  answered(said: readonly Saying[]): void {
    this.waiting = this.waiting.filter(
      (one) => one.message.type === "Update" || !said.includes(one),
    );
  }

  /** Note that no answer came: a Message is said at most once. */
  lost(said: readonly Saying[]): void {
    this.waiting = this.waiting.filter(
      (one) => one.message.type !== "Message" || !said.includes(one),
    );
  }

  /** Take what the server said, and return what of it is news; null for nothing. */
  receive(message: ServerDocumentMessage): ServerDocumentMessage | null {
    switch (message.type) {
      case "Opened":
        return this.wasOpened(message);
      case "Piece":
        this.synced = false;
        this.pieces.push(message.update);
        break;
      case "Synced":
        if (this.promised !== null) {
          this.pieces = [];
          this.add(this.promised);
          this.promised = null;
        }
        this.synced = true;
        this.reached(message.position);
        break;
      case "Update":
        this.add(ends(message.update));
        this.reached(message.position);
        break;
      case "Saved":
        this.named(({ sequence }) => sequence <= message.sequence, true);
        // It came beside what we listen to, and knows nothing of that.
        return { ...message, position: 0 };
      case "Refused":
        this.named(({ sequence }) => sequence === message.sequence, false);
        break;
      case "Access":
        this.writable = message.writable;
        break;
      case "Presence":
        this.note(message.states);
        break;
    }
    return message;
  }

  private wasOpened(
    message: Extract<ServerDocumentMessage, { type: "Opened" }>,
  ): ServerDocumentMessage | null {
    const { channel, opened } = this;
    const { epoch, writable } = message;
    const changed = writable !== this.writable;
    const vector = Y.decodeStateVector(message.vector);
    this.promised = vector;
    this.writable = writable;
    if (!opened) {
      this.opened = true;
      if (epoch !== this.epoch) this.position = 0;
      this.epoch = epoch;
      return message;
    }
    const lacks = [...this.theirs].some(([client, clock]) => (vector.get(client) ?? 0) < clock);
    const now = Date.now();
    if (!lacks) this.doubted = 0;
    else if (this.doubted === 0) this.doubted = now + DOUBT;
    if (epoch !== this.epoch || (lacks && now >= this.doubted)) {
      const reason = "The server has another document.";
      return { type: "Closed", channel, code: ANOTHER, reason };
    }
    return changed ? { type: "Access", channel, writable } : null;
  }

  private named(isNamed: (update: { sequence: number }) => boolean, saved: boolean): void {
    this.waiting = this.waiting.filter(({ message }) => {
      if (message.type !== "Update" || !isNamed(message)) return true;
      if (saved) raise(this.theirs, ends(message.update));
      return false;
    });
  }

  private reached(position: number): void {
    if (this.synced && position > this.position) this.position = position;
  }

  private fold(): void {
    for (const piece of this.pieces) this.add(ends(piece));
    this.pieces = [];
  }

  /** Note what the server sent; it can be applied in the order in which it came. */
  private add(vector: Vector): void {
    raise(this.ours, vector);
    raise(this.theirs, vector);
  }

  private note(states: Uint8Array): void {
    try {
      for (const { client, clock, here } of readStates(states)) {
        if (here) this.known.set(client, clock);
        else this.known.delete(client);
      }
    } catch {
      // The document will say so.
    }
  }
}

/** The state vector of an empty document. */
const NOTHING = new Uint8Array([0]);

/** The octets of a message around what is in it, and some. */
const ROOM = 64;

/** The clocks at which an update ends. */
function ends(update: Uint8Array): Vector {
  try {
    return Y.parseUpdateMeta(update).to;
  } catch {
    // The document will say so.
    return new Map();
  }
}

function raise(vector: Vector, by: Vector): void {
  for (const [client, clock] of by) {
    if (clock > (vector.get(client) ?? 0)) vector.set(client, clock);
  }
}

function writeKnown(known: Vector): Uint8Array {
  const encoder = encoding.createEncoder();
  encoding.writeVarUint(encoder, known.size);
  for (const pair of known) {
    for (const number of pair) encoding.writeVarUint(encoder, number);
  }
  return encoding.toUint8Array(encoder);
}
