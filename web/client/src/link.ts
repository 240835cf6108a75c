/** One connection, from Hello to its end: messages, signs of life, channels. */

import { ProtocolError, joinMessages, readServerFrame, writeClientMessage } from "./wire.js";
import type { ClientMessage, ServerConnectionMessage, ServerDocumentMessage } from "./wire.js";
import type { Carrier, Transport } from "./transport.js";

/** What logs may call us. */
export const AGENT = "collab-client/0.1.0";

/** Milliseconds until a server must have welcomed us, if nothing else is said. */
export const WELCOME = 10_000;

/** Milliseconds that a sign of life may come later than the server promised. */
export const MARGIN = 3_000;

/** Milliseconds that a Ping may go unanswered. */
export const PATIENCE = 5_000;

/** Milliseconds between two looks at the clock. */
const TICK = 1_000;

/** Milliseconds by which a look at the clock is late if the machine slept. */
const SLEPT = 5_000;

/**
 * How often a late look alone may excuse an unanswered Ping. Browsers look late all
 * the time at a page in the background.
 */
const EXCUSES = 2;

/** The octets of a frame up to which further messages are put into it. */
const FULL = 64 * 1024;

/** The close codes that we give: it is done, it is malformed, it is dead. */
const DONE = 1000;
const MALFORMED = 4400;
const DEAD = 3408;

/** For whom the connection is. */
export interface Owner {
  /** The server can be spoken to, though it has not said anything yet. */
  opened(link: Link): void;
  welcomed(link: Link): void;
  /** The server wishes that we move within a window of time, in milliseconds. */
  advised(link: Link, after: number, window: number): void;
  /** It ended, but not because of {@link Link.close}. */
  closed(link: Link, code: number, reason: string): void;
}

/** What a channel's messages are for. */
export interface Seat {
  receive(message: ServerDocumentMessage): void;
}

export class Link {
  /** Whether anything can be sent. */
  isOpen = false;
  /** What the server said of itself; null until then. */
  welcome: Extract<ServerConnectionMessage, { type: "Welcome" }> | null = null;

  readonly transport: Transport;

  private readonly owner: Owner;
  private readonly carrier: Carrier;
  private readonly seats = new Map<number, Seat>();
  private readonly pings = new Map<number, (delay: number | null) => void>();
  private channels = 0;
  private queue: Uint8Array[] = [];
  private pinged = 0;
  private heard = Date.now();
  private looked = Date.now();
  private doubted: number | null = null;
  private excuses = 0;
  private buffered = 0;
  private readonly patience: number;
  private readonly watch = setInterval(() => this.look(), TICK);

  constructor(transport: Transport, url: string, owner: Owner, patience = WELCOME) {
    this.transport = transport;
    this.owner = owner;
    this.patience = patience;
    this.carrier = transport.open(url, {
      onOpen: () => {
        this.isOpen = true;
        this.send({ type: "Hello", channel: 0, client: AGENT });
        owner.opened(this);
      },
      onFrame: (frame) => this.receive(frame),
      onClose: (code, reason) => {
        this.stop();
        owner.closed(this, code, reason);
      },
    });
  }

  /** The octets that one frame may have. */
  get size(): number {
    return this.welcome?.size ?? Infinity;
  }

  /** Give a channel to somebody. Numbers are not used again. */
  seat(seat: Seat): number {
    this.channels += 1;
    this.seats.set(this.channels, seat);
    return this.channels;
  }

  /** Hear nothing more of a channel. */
  leave(channel: number): void {
    this.seats.delete(channel);
  }

  /** Send a message together with what else is sent in this turn of the loop. */
  send(message: ClientMessage): void {
    if (!this.isOpen) return;
    if (this.queue.length === 0) queueMicrotask(() => this.flush());
    this.queue.push(writeClientMessage(message));
  }

  /** Measure the way to the server and back, in milliseconds; null if it is lost. */
  ping(): Promise<number | null> {
    const sent = performance.now();
    this.pinged += 1;
    const number = this.pinged;
    this.send({ type: "Ping", channel: 0, number });
    return new Promise((resolve) => {
      this.pings.set(number, (heard) => {
        resolve(heard === null ? null : performance.now() - sent);
      });
    });
  }

  /** Doubt that the connection is alive: it has {@link PATIENCE} to prove it. */
  probe(): void {
    if (!this.isOpen || this.doubted !== null) return;
    this.doubt();
  }

  /** End it, without telling the owner; what was sent still goes out. */
  close(code = DONE, reason = ""): void {
    this.flush();
    this.stop();
    this.carrier.close(code, reason);
  }

  private doubt(): void {
    this.doubted = Date.now();
    void this.ping();
  }

  private receive(frame: Uint8Array): void {
    this.heard = Date.now();
    this.doubted = null;
    this.excuses = 0;
    try {
      for (const message of readServerFrame(frame)) {
        if (!this.isOpen) return;
        if (message.channel === 0) this.receiveOwn(message as ServerConnectionMessage);
        // Messages may be on their way when a channel is left.
        else this.pass(message as ServerDocumentMessage);
      }
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.fail(error.message, MALFORMED);
    }
  }

  private pass(message: ServerDocumentMessage): void {
    try {
      this.seats.get(message.channel)?.receive(message);
    } catch (error) {
      if (error instanceof ProtocolError) throw error;
      // An error of the application's handlers. What else is in the frame is not
      // theirs to lose.
      queueMicrotask(() => {
        throw error;
      });
    }
  }

  private receiveOwn(message: ServerConnectionMessage): void {
    switch (message.type) {
      case "Welcome":
        this.welcome = message;
        this.owner.welcomed(this);
        break;
      case "Pong":
        this.pings.get(message.number)?.(message.number);
        this.pings.delete(message.number);
        break;
      case "Reconnect":
        this.owner.advised(this, message.after, message.window);
        break;
    }
  }

  private flush(): void {
    const queue = this.queue;
    this.queue = [];
    if (!this.isOpen) return;
    let batch: Uint8Array[] = [];
    let size = 0;
    for (const message of queue) {
      if (size > 0 && size + message.length > FULL) {
        this.carrier.send(joinMessages(batch));
        batch = [];
        size = 0;
      }
      batch.push(message);
      size += message.length;
    }
    if (size > 0) this.carrier.send(joinMessages(batch));
  }

  private look(): void {
    const now = Date.now();
    const late = now - this.looked > TICK + SLEPT;
    this.looked = now;
    // A clock may be set back.
    this.heard = Math.min(this.heard, now);
    if (this.doubted !== null) this.doubted = Math.min(this.doubted, now);
    // A Ping waits behind what is sent before it: that this goes out is an answer, too.
    const { buffered } = this.carrier;
    if (this.doubted !== null && buffered < this.buffered) this.doubted = now;
    this.buffered = buffered;
    if (this.welcome === null) {
      // Counted from the last sign of life, which is none: from the beginning.
      if (now - this.heard >= this.patience) this.fail("The server does not answer.");
    } else if (late && this.excuses < EXCUSES) {
      this.excuses += 1;
      this.doubt();
    } else if (this.doubted !== null) {
      if (now - this.doubted >= PATIENCE) this.fail("The server went silent.");
    } else if (now - this.heard >= this.welcome.heartbeat + MARGIN) {
      this.doubt();
    }
  }

  private fail(reason: string, code = DEAD): void {
    this.stop();
    this.carrier.close(code, reason);
    this.owner.closed(this, 0, reason);
  }

  private stop(): void {
    this.isOpen = false;
    this.queue = [];
    this.seats.clear();
    for (const answer of this.pings.values()) answer(null);
    clearInterval(this.watch);
  }
}
