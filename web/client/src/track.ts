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
  /**
   * Whether that server still listens, as far as one knows. One that crashed may have less
   * than before, and takes what builds upon it: it is told what it lacks before.
   */
  isCurrent = false;
  /** Whether it was closed here, which is still to be said. */
  leaving = false;
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
  /** The same, when we asked. */
  private expected: Vector = new Map();
  /** What came and is not in these yet. */
  private pieces: Uint8Array[] = [];
  /** What the server will have sent when it says Synced. */
  private promised: Vector | null = null;
  private writable = false;
  /** Whether a position that comes says that everything up to there is here. */
  private synced = false;
  /** Whether what we listen to has begun, so that a crash would be noticed. */
  private listens = false;
  /** What was saved meanwhile: not to be told before it is known what was lost. */
  private held: ServerDocumentMessage[] = [];
  /** The clocks of others who are here, and of those who are here by us. */
  private readonly known: Vector = new Map();
  private readonly own: Vector = new Map();
  /** Whether the server may have forgotten the latter. */
  private forgotten = false;

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

  /**
   * What a request that listens begins with.
   *
   * @param lasts Whether the answer begins at once: that to a poll may be kept back.
   */
  ask(lasts: boolean): ClientDocumentMessage {
    this.promised = null;
    this.synced = false;
    if (lasts) this.listens = false;
    for (const piece of this.pieces) this.add(ends(piece));
    this.pieces = [];
    this.expected = new Map(this.theirs);
    const { channel, name, token, epoch, position } = this;
    const vector = Y.encodeStateVector(this.ours);
    const open = { channel, name, token, vector, epoch, position };
    if (!this.opened) return { type: "Open", ...open };
    return { type: "Resume", ...open, known: writeClocks(this.known) };
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
      this.note(message.states, true);
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

  /** Note that what we listened to was cut off. */
  cut(): void {
    this.listens = this.isCurrent = false;
    this.forgotten = true;
  }

  /** Take what the server said, and return what of it is news. */
  receive(message: ServerDocumentMessage): ServerDocumentMessage[] {
    switch (message.type) {
      case "Opened":
        return [...this.wasOpened(message), ...this.held.splice(0), ...this.renew()];
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
        this.held.push({ ...message, position: 0 });
        return this.listens ? this.held.splice(0) : [];
      case "Refused":
        this.named(({ sequence }) => sequence === message.sequence, false);
        break;
      case "Access":
        this.writable = message.writable;
        break;
      case "Presence":
        this.note(message.states, false);
        break;
    }
    return [message];
  }

  private wasOpened(
    message: Extract<ServerDocumentMessage, { type: "Opened" }>,
  ): ServerDocumentMessage[] {
    const { channel, opened } = this;
    const { epoch, writable } = message;
    const changed = writable !== this.writable;
    const vector = Y.decodeStateVector(message.vector);
    this.promised = vector;
    this.listens = this.isCurrent = true;
    this.writable = writable;
    // A new document has none at first.
    if (!opened || this.epoch === "") {
      this.opened = true;
      if (epoch !== this.epoch) this.position = 0;
      this.epoch = epoch;
      return [message];
    }
    if (epoch !== this.epoch && epoch !== "") {
      const reason = "The server has another document.";
      return [{ type: "Closed", channel, code: ANOTHER, reason }];
    }
    for (const [client, clock] of this.expected) {
      if ((vector.get(client) ?? 0) >= clock) continue;
      // It has lost that, or is another server that has not heard of it: whoever has it
      // finds out by this vector, and says it again.
      this.position = 0;
      return [message];
    }
    return changed ? [{ type: "Access", channel, writable }] : [];
  }

  /** Have those announced anew whom the server, and others, may have forgotten. */
  private renew(): ServerDocumentMessage[] {
    const { channel, own, forgotten } = this;
    this.forgotten = false;
    if (!forgotten || own.size === 0) return [];
    return [{ type: "Presence", channel, states: writeClocks(own, "null") }];
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

  /** Note what the server sent; it can be applied in the order in which it came. */
  private add(vector: Vector): void {
    raise(this.ours, vector);
    raise(this.theirs, vector);
  }

  private note(states: Uint8Array, isOwn: boolean): void {
    try {
      for (const { client, clock, here } of readStates(states)) {
        if (isOwn) this.own.set(client, clock);
        if (here && !this.own.has(client)) this.known.set(client, clock);
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

/** Write whom one knows, or a presence update in which all have the same state. */
function writeClocks(clocks: Vector, state?: string): Uint8Array {
  const encoder = encoding.createEncoder();
  encoding.writeVarUint(encoder, clocks.size);
  for (const pair of clocks) {
    for (const number of pair) encoding.writeVarUint(encoder, number);
    if (state !== undefined) encoding.writeVarString(encoder, state);
  }
  return encoding.toUint8Array(encoder);
}
