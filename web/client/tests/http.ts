/**
 * The server in memory, over HTTP: docs/protocol.md, "Over HTTP", in place of `fetch`.
 *
 * Requests and responses are lost, repeated and late as a test wants it.
 */

import * as decoding from "lib0/decoding";
import * as encoding from "lib0/encoding";
import { readClientFrame, writeClientMessage, type ClientMessage } from "../src/wire.js";
import { Line, Place, type Server } from "./server.js";

/** Milliseconds that somebody is remembered who asks no more. */
const GRACE = 5_000;

/** Milliseconds that a push waits for the disk. */
const DISK = 20_000;

/** What the server says to the author of a push alone. */
const SAVED = 8;
const TO_AUTHOR = [SAVED, 9, 11];

type Mode = "push" | "stream" | "events" | "poll";

/** A request under way. */
interface Exchange {
  mode: Mode;
  /** The channels that it opened. */
  channels: Set<number>;
  write(frame: Uint8Array): void;
  end(): void;
  cut(): void;
  isOver: boolean;
  /** Whether there is anything for which a poll would end. */
  isNew: boolean;
  /** The updates of a push that are not named yet: channel and number. */
  unnamed: Set<string>;
}

/** A client, as one key names it. */
interface Guest {
  line: Line;
  listening: Exchange | null;
  pushes: Set<Exchange>;
  timer: ReturnType<typeof setTimeout> | undefined;
}

export class HttpServer {
  /** All requests, in the order in which they were sent. */
  readonly asked: { mode: string; wait: number; messages: ClientMessage[]; at: number }[] = [];
  /** How many of the requests or responses are lost, and how many arrive twice. */
  loss = 0;
  random: () => number = () => 0.5;
  /** Of what somebody in between keeps back until it is complete. */
  buffered = new Set<string>();
  /** Milliseconds after which somebody in between ends a request that brings nothing. */
  patience = Infinity;
  /** What is answered in place of the server. */
  instead: { status: number; type: string; text: string; headers?: Record<string, string> } | null =
    null;
  /** Whether each poll ends at once. */
  restless = false;
  /** Whether responses have bodies that can be read as they come. */
  streams = true;

  private readonly server: Server;
  private readonly guests = new Map<string, Guest>();

  constructor(server: Server) {
    this.server = server;
  }

  /** How many listen. */
  get listening(): number {
    return [...this.guests.values()].filter(({ listening }) => listening !== null).length;
  }

  readonly fetch = async (input: URL | string, init: RequestInit): Promise<Response> => {
    const address = new URL(input);
    const mode = address.pathname.split("/").at(-1) as Mode;
    const body = init.body as Uint8Array;
    const wait = Number(address.searchParams.get("wait") ?? 25);
    this.asked.push({ mode, wait, messages: readClientFrame(body), at: Date.now() });
    const { signal } = init;
    const aborted = new Promise<never>((_, reject) => {
      if (signal?.aborted) reject(signal.reason as Error);
      signal?.addEventListener("abort", () => reject(signal.reason as Error));
    });
    aborted.catch(() => {});
    return Promise.race([aborted, this.answer(mode, wait, body, signal ?? null)]);
  };

  private get delay(): number {
    return this.loss > 0 ? this.random() * 20 * this.server.latency : this.server.latency;
  }

  private async answer(
    mode: Mode,
    wait: number,
    body: Uint8Array,
    signal: AbortSignal | null,
  ): Promise<Response> {
    await sleep(this.delay);
    if (this.server.mode === "silent") return new Promise(() => {});
    if (this.server.mode === "down") throw new TypeError("fetch failed");
    if (this.instead !== null) {
      const { status, type, text, headers } = this.instead;
      return new Response(text, { status, headers: { "content-type": type, ...headers } });
    }
    const { loss } = this;
    if (this.random() < loss / 3) throw new TypeError("the request was lost");
    const pipe = new Pipe(mode === "events", () => this.delay);
    if (this.random() < loss / 3) {
      const late = new Pipe(false, () => 0);
      void sleep(this.random() * 3_000).then(async () => {
        const exchange = this.serve(mode, wait, body, late);
        // Nobody hears the answer, so that whoever repeated it doesn't wait for the end.
        await sleep(this.random() * 3_000);
        exchange.cut();
      });
    }
    const exchange = this.serve(mode, wait, body, pipe);
    signal?.addEventListener("abort", () => exchange.cut());
    if (signal?.aborted) exchange.cut();
    if (this.random() < loss / 3) {
      // Somewhere within the response.
      void sleep(this.random() * 500).then(() => exchange.cut());
    }
    if (this.patience < Infinity) pipe.limit(this.patience, () => exchange.cut());
    if (this.buffered.has(mode) || this.patience < Infinity) await pipe.complete(mode !== "push");
    const type = mode === "events" ? "text/event-stream" : "application/octet-stream";
    return {
      status: 200,
      headers: new Headers({ "content-type": type }),
      body: this.streams ? { getReader: () => pipe } : undefined,
      arrayBuffer: () => pipe.whole(),
      text: async () => "",
    } as unknown as Response;
  }

  private serve(mode: Mode, wait: number, body: Uint8Array, pipe: Pipe): Exchange {
    const [hello, identity, ...messages] = readClientFrame(body);
    if (hello?.type !== "Hello" || identity?.type !== "Identity") {
      throw new Error("a request begins with Hello and Identity");
    }
    const guest = this.guest(Buffer.from(identity.key).toString("hex"));
    const exchange: Exchange = {
      mode,
      channels: new Set(),
      isOver: false,
      isNew: false,
      unnamed: new Set(),
      write: (frame) => {
        if (!exchange.isOver && this.server.mode !== "silent") pipe.write(frame);
      },
      end: () => this.over(guest, exchange, () => pipe.end()),
      cut: () => this.over(guest, exchange, () => pipe.cut()),
    };
    if (mode === "push") this.push(guest, exchange, messages);
    else this.listen(guest, exchange, messages, wait);
    return exchange;
  }

  private over(guest: Guest, exchange: Exchange, tell: () => void): void {
    if (exchange.isOver) return;
    exchange.isOver = true;
    tell();
    guest.pushes.delete(exchange);
    if (guest.listening === exchange) guest.listening = null;
    clearTimeout(guest.timer);
    guest.timer = setTimeout(() => {
      if (guest.listening !== null) return;
      for (const place of guest.line.places.values()) this.server.left(place);
      guest.line.places.clear();
    }, GRACE);
  }

  private guest(key: string): Guest {
    let guest = this.guests.get(key);
    if (guest !== undefined && !guest.line.over) return guest;
    const line = new Line(this.server, {
      onOpen: () => {},
      onFrame: (frame) => this.route(made, frame),
      onClose: () => {
        made.listening?.cut();
        for (const push of [...made.pushes]) push.cut();
      },
    });
    // What is said between the requests is said for nobody, and nothing waits.
    line.sendFrame = (frame) => this.route(made, frame);
    line.isOpen = true;
    this.server.lines.push(line);
    const made: Guest = { line, listening: null, pushes: new Set(), timer: undefined };
    this.guests.set(key, made);
    return made;
  }

  private listen(guest: Guest, exchange: Exchange, messages: ClientMessage[], wait: number): void {
    guest.listening?.cut();
    guest.listening = exchange;
    const { line } = guest;
    exchange.write(this.welcome());
    // Those that are not asked for any more.
    const channels = new Set(messages.map(({ channel }) => channel));
    for (const place of line.places.values()) {
      if (!channels.has(place.channel)) place.room.places.delete(place);
    }
    for (const message of messages) {
      if (message.type !== "Open" && message.type !== "Resume") continue;
      exchange.channels.add(message.channel);
      line.heard.push(`${message.type.toLowerCase()} ${message.name} ${message.token}`);
      if (message.type === "Open" || this.restless) exchange.isNew = true;
      const known = message.type === "Resume" ? readKnown(message.known) : null;
      this.server.open(line, message.channel, this.server.room(message.name), message, known);
    }
    if (exchange.mode === "poll") {
      setTimeout(() => exchange.end(), exchange.isNew ? 1 : wait * 1_000);
      return;
    }
    const beat = setInterval(() => {
      if (exchange.isOver) clearInterval(beat);
      else exchange.write(write(0, 1, (to) => encoding.writeVarUint(to, 0)));
    }, this.server.heartbeat);
  }

  private push(guest: Guest, exchange: Exchange, messages: ClientMessage[]): void {
    guest.pushes.add(exchange);
    const { line } = guest;
    const closed = new Set<number>();
    for (const message of messages) {
      const { channel } = message;
      if (message.type === "Ping") {
        exchange.write(write(0, 1, (to) => encoding.writeVarUint(to, message.number)));
      } else if (message.type === "Open") {
        const room = this.server.room(message.name);
        if (message.epoch !== "" && message.epoch !== room.epoch) {
          closed.add(channel);
          exchange.write(
            write(channel, 1, (to) => {
              encoding.writeVarUint(to, 4509);
              encoding.writeVarString(to, "another document");
            }),
          );
        } else if (!line.places.has(channel)) {
          line.places.set(channel, new Place(line, channel, room, message.token));
        }
      } else if (!closed.has(channel)) {
        if (message.type === "Update") exchange.unnamed.add(`${channel} ${message.sequence}`);
        this.server.receive(line, writeClientMessage(message));
      }
    }
    const settle = (): void => {
      if (exchange.unnamed.size === 0) exchange.end();
    };
    setTimeout(settle, 1);
    setTimeout(() => exchange.end(), DISK);
  }

  /** Tell those whom it concerns what the server says to a client. */
  private route(guest: Guest, frame: Uint8Array): void {
    const from = decoding.createDecoder(frame);
    const channel = decoding.readVarUint(from);
    const kind = decoding.readVarUint(from);
    if (channel > 0 && TO_AUTHOR.includes(kind)) {
      const sequence = decoding.readVarUint(from);
      for (const push of [...guest.pushes]) {
        push.write(frame);
        for (const name of push.unnamed) {
          const [owner, number] = name.split(" ").map(Number) as [number, number];
          const isNamed = kind === SAVED ? number <= sequence : number === sequence;
          if (owner === channel && isNamed) push.unnamed.delete(name);
        }
        if (push.unnamed.size === 0) setTimeout(() => push.end(), 1);
      }
      return;
    }
    const { listening } = guest;
    if (listening === null || (channel > 0 && !listening.channels.has(channel))) return;
    listening.write(frame);
    // Opened and Synced are no news of a channel that was resumed.
    if (channel === 0 || kind === 0 || kind === 7 || listening.mode !== "poll") return;
    if (!listening.isNew) setTimeout(() => listening.end(), 1);
    listening.isNew = true;
  }

  private welcome(): Uint8Array {
    return write(0, 0, (to) => {
      encoding.writeVarUint(to, 1);
      encoding.writeVarString(to, "c");
      encoding.writeVarUint(to, this.server.heartbeat);
      encoding.writeVarUint(to, this.server.size);
    });
  }
}

/** The way back of a response. What is late keeps its order. */
class Pipe {
  private readonly asEvents: boolean;
  private readonly delay: () => number;
  private chunks: Uint8Array[] = [];
  private state: "open" | "ended" | "cut" = "open";
  private last: Promise<void> = Promise.resolve();
  private wake: () => void = () => {};
  private watch: (() => void) | null = null;

  constructor(asEvents: boolean, delay: () => number) {
    this.asEvents = asEvents;
    this.delay = delay;
  }

  write(frame: Uint8Array): void {
    this.watch?.();
    const text = `data: ${Buffer.from(frame).toString("base64")}\r\n\r\n`;
    const chunk = this.asEvents ? new TextEncoder().encode(text) : withLength(frame);
    this.later(() => this.chunks.push(chunk));
  }

  end(): void {
    this.later(() => {
      if (this.state === "open") this.state = "ended";
    });
  }

  cut(): void {
    this.state = "cut";
    this.chunks = [];
    this.wake();
  }

  /** Tell when nothing was written for so long. */
  limit(time: number, late: () => void): void {
    let timer = setTimeout(late, time);
    this.watch = () => {
      clearTimeout(timer);
      timer = setTimeout(late, time);
    };
  }

  async read(): Promise<{ done: boolean; value?: Uint8Array }> {
    for (;;) {
      if (this.state === "cut") throw new TypeError("terminated");
      const value = this.chunks.shift();
      if (value !== undefined) return { done: false, value };
      if (this.state === "ended") return { done: true };
      await new Promise<void>((resolve) => (this.wake = resolve));
    }
  }

  /** Wait until all is there, as somebody does who keeps it back. */
  async complete(isShown: boolean): Promise<void> {
    if (isShown && this.state === "open") {
      const read = this.read.bind(this);
      this.read = async () => {
        await this.finished();
        return read();
      };
      return;
    }
    await this.finished();
  }

  async whole(): Promise<ArrayBuffer> {
    await this.finished();
    const all: Uint8Array[] = [];
    for (let part; !(part = await this.read()).done; ) all.push(part.value!);
    return new Uint8Array(Buffer.concat(all)).buffer;
  }

  private async finished(): Promise<void> {
    while (this.state === "open") {
      await new Promise<void>((resolve) => {
        const wake = this.wake;
        this.wake = () => {
          wake();
          resolve();
        };
      });
    }
    if (this.state === "cut") throw new TypeError("terminated");
  }

  private later(act: () => void): void {
    const before = this.last;
    this.last = sleep(this.delay()).then(async () => {
      await before;
      act();
      this.wake();
    });
  }
}

function sleep(time: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, time));
}

function write(channel: number, kind: number, body: (to: encoding.Encoder) => void): Uint8Array {
  const encoder = encoding.createEncoder();
  encoding.writeVarUint(encoder, channel);
  encoding.writeVarUint(encoder, kind);
  body(encoder);
  return encoding.toUint8Array(encoder);
}

function withLength(frame: Uint8Array): Uint8Array {
  const encoder = encoding.createEncoder();
  encoding.writeVarUint8Array(encoder, frame);
  return encoding.toUint8Array(encoder);
}

function readKnown(known: Uint8Array): Map<number, number> {
  const from = decoding.createDecoder(known);
  const clocks = new Map<number, number>();
  for (let count = decoding.readVarUint(from); count > 0; count -= 1) {
    clocks.set(decoding.readVarUint(from), decoding.readVarUint(from));
  }
  return clocks;
}
