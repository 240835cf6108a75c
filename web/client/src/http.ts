/**
 * Connections where WebSockets are blocked: docs/protocol.md, "Over HTTP".
 *
 * A request is under way in which we listen, and now and then one that says something. To
 * whoever uses it, it is a connection like any other: it opens, frames go both ways, it
 * ends. That a request was lost, and repeated, nobody learns before several were.
 */

import { createEventReader, createFrameReader, type BodyReader } from "./bodies.js";
import { backOff, CAP } from "./retry.js";
import { Track } from "./track.js";
import { UNFIT, type Carrier, type Handlers, type Transport } from "./transport.js";
import {
  joinMessages,
  ProtocolError,
  readClientFrame,
  readServerFrame,
  writeClientMessage,
  writeServerMessage,
  type ClientDocumentMessage,
  type ClientMessage,
  type ServerDocumentMessage,
  type ServerMessage,
} from "./wire.js";

/** Milliseconds from the head of a response until the server must have welcomed us. */
export const BUFFERED = 4_000;

/** Milliseconds that the head may take. */
export const HEAD = 8_000;

/** Milliseconds that what listens may be silent for longer than was promised. */
const MARGIN = 5_000;

/** Requests that may fail in a row. */
const FAILURES = 3;

/** Milliseconds that a push may take: the server waits 20 seconds for its disk. */
const PUSH = 30_000;

/** Octets for each millisecond that a push may take longer. */
const SPEED = 8;

/** Milliseconds that a Ping is worth waiting for. */
const PING = 10_000;

/** The octets of a frame that are kept free for what a push says of its channels. */
const HEADROOM = 16 * 1024;

/** The most octets that a request may have which outlives its page. */
const KEPT = 60 * 1024;

/** The seconds for which a poll waits at most, and at least. */
const WAIT = { most: 25, least: 2 };

/** The seconds for which the first one waits after one that was cut off. */
const BRIEF = 3;

/** The polls that must end well before the next ones wait a second longer. */
const CALM = 10;

/** Milliseconds for which a poll should last if there were many before that did not. */
const HASTE = 200;
const HASTY = 20;

/** The close codes that we give, or understand. */
const DONE = 1000;
const GONE = 1006;
const REFUSED = 4000;

/** A way to listen. */
interface Mode {
  readonly path: string;
  readonly type: string;
  readonly createReader: () => BodyReader;
  /** Whether the response lasts. */
  readonly lasts: boolean;
  /** The least milliseconds from one request that listens to the next. */
  readonly spacing: number;
}

const OCTETS = "application/octet-stream";

/** Frames in the body of a response that lasts; needs `fetch` with streams. */
export const httpStream = createTransport("http-stream", {
  path: "stream",
  type: OCTETS,
  createReader: createFrameReader,
  lasts: true,
  spacing: 1_000,
});

/** The same as server-sent events, which more proxies pass on as they come. */
export const serverSentEvents = createTransport("events", {
  path: "events",
  type: "text/event-stream",
  createReader: createEventReader,
  lasts: true,
  spacing: 1_000,
});

/** A response for each time that there is something new: works wherever pages do. */
export const longPolling = createTransport("polling", {
  path: "poll",
  type: OCTETS,
  createReader: createFrameReader,
  lasts: false,
  spacing: 10,
});

function createTransport(name: string, mode: Mode): Transport {
  return {
    name,
    isHttp: true,
    open: (url, handlers) => new HttpCarrier(mode, readAddress(url), handlers),
  };
}

/** The address of the requests, from that of the WebSocket. */
export function readAddress(url: string): URL {
  const address = new URL(url.replace(/^ws/, "http"));
  address.pathname = address.pathname.replace(/\/ws$/, "/api/sync");
  return address;
}

/** Why there was no response, or what the server says instead of one. */
class Fault extends Error {
  /** The close code that says the same, if that is final; else 0. */
  readonly code: number;
  /** Milliseconds after which the server wants to be asked again. */
  readonly after: number;

  constructor(reason: string, code = 0, after = 0) {
    super(reason);
    this.code = code;
    this.after = after;
  }
}

/** What a push says of a channel. */
interface Said {
  channel: number;
  track: Track;
  sayings: Track["waiting"];
}

class HttpCarrier implements Carrier {
  private readonly mode: Mode;
  private readonly address: URL;
  private readonly handlers: Handlers;
  /** Hello and Identity, with which each request begins. */
  private head = new Uint8Array();
  private readonly tracks = new Map<number, Track>();
  private size = Infinity;
  private heartbeat = 0;
  private isOpen = false;
  private over = false;

  private listening: AbortController | null = null;
  private listenTimer: ReturnType<typeof setTimeout> | undefined;
  /** When to listen anew, as `Date.now` counts; Infinity if that isn't planned. */
  private listenAt = Infinity;
  private listenFailures = 0;
  private wait = WAIT.most;
  private calm = 0;
  private wasCut = false;
  /** The polls in a row that ended at once. */
  private hasty = 0;

  private readonly pushes = new Set<AbortController>();
  private saying: Said[] | null = null;
  private sayTimer: ReturnType<typeof setTimeout> | undefined;
  private sayFailures = 0;

  constructor(mode: Mode, address: URL, handlers: Handlers) {
    this.mode = mode;
    this.address = address;
    this.handlers = handlers;
    globalThis.addEventListener?.("pagehide", this.hidden);
    // There is nothing to be opened.
    queueMicrotask(() => {
      if (!this.over) handlers.onOpen();
    });
  }

  get buffered(): number {
    let sum = 0;
    for (const track of this.tracks.values()) sum += track.buffered;
    return sum;
  }

  send(frame: Uint8Array): void {
    if (this.over) return;
    for (const message of readClientFrame(frame)) this.take(message);
    queueMicrotask(() => void this.say());
  }

  close(code: number): void {
    if (this.over) return;
    if (code === DONE) this.leave();
    else for (const push of this.pushes) push.abort();
    this.finish();
  }

  private take(message: ClientMessage): void {
    if (message.type === "Hello") {
      const key = crypto.getRandomValues(new Uint8Array(32));
      this.head = write([message, { type: "Identity", channel: 0, key }]);
      return this.listenAnew();
    }
    if (message.type === "Ping") return void this.ping(message);
    if (message.channel === 0) return;
    if (message.type === "Open") {
      this.tracks.set(message.channel, new Track(message));
      return this.listenAnew();
    }
    const track = this.tracks.get(message.channel);
    if (track === undefined) return;
    if (message.type === "Token") {
      track.token = message.token;
      this.listenAnew();
    } else if (message.type === "Close") {
      this.listenAnew();
      // Nobody knows of it.
      if (!track.opened) return void this.tracks.delete(message.channel);
      track.leaving = true;
    }
    track.say(message as ClientDocumentMessage);
  }

  // --- listening

  /** Ask again, with what has changed; what changes in one turn of the loop is one. */
  private listenAnew(wait = 0): void {
    const at = Date.now() + wait;
    // Who can't be reached is not asked more often.
    const isPlanned = this.listenAt < Infinity;
    if (this.listenAt <= at || (isPlanned && this.listenFailures > 0)) return;
    clearTimeout(this.listenTimer);
    this.listenAt = at;
    // Browsers let a timer of a page in the background wait for up to a minute.
    if (wait > 0) this.listenTimer = setTimeout(() => void this.listen(), wait);
    else queueMicrotask(() => void this.listen());
  }

  private async listen(): Promise<void> {
    this.listenAt = Infinity;
    this.listening?.abort();
    this.listening = null;
    const tracks = [...this.tracks.values()].filter(({ leaving }) => !leaving);
    if (this.over || (this.isOpen && tracks.length === 0)) return;
    const { lasts, path, type, spacing } = this.mode;
    const listening = (this.listening = new AbortController());
    const began = Date.now();
    const read = this.mode.createReader();
    // Without channels only Welcome is of interest, which may come with the end; as may
    // Opened, without which nothing is pushed after a cut.
    const wait = tracks.length > 0 ? (this.wasCut ? BRIEF : this.wait) : 1;
    this.wasCut = false;
    let welcomed = false;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const expect = (time: number): void => {
      clearTimeout(timer);
      timer = setTimeout(() => listening.abort(new Fault("The server went silent.")), time);
    };
    // A response that lasts begins at once; another one may come as a whole.
    const patience = lasts ? HEAD : wait * 1_000 + MARGIN;
    expect(patience);
    let fault: Fault | null = null;
    let silent = false;
    try {
      const response = await this.post(
        lasts ? path : `${path}?wait=${wait}`,
        write(tracks.map((track) => track.ask(lasts))),
        type,
        listening.signal,
      );
      if (lasts) expect(BUFFERED);
      for await (const chunk of chunksOf(response)) {
        if (this.listening !== listening) return;
        for (const frame of read(chunk)) {
          if (this.receive(frame)) welcomed = true;
          // Or it is over by what was received, or begun anew.
          if (this.listening !== listening) return;
        }
        if (welcomed) expect(lasts ? this.heartbeat + MARGIN : patience);
      }
      if (!welcomed) throw new Fault("The server's answer was cut off.");
    } catch (error) {
      silent = listening.signal.aborted;
      fault = readFault(silent ? listening.signal.reason : error);
    } finally {
      clearTimeout(timer);
    }
    if (this.listening !== listening || this.over) return;
    // A clock may be set back.
    const took = Math.max(0, Date.now() - began);
    this.listening = null;
    this.wasCut = fault !== null;
    if (this.wasCut) for (const track of this.tracks.values()) track.cut();
    if (!lasts) this.adapt(took, fault);
    this.hasty = took < HASTE ? this.hasty + 1 : 0;
    if (welcomed) {
      this.listenFailures = 0;
      const usual = this.hasty > HASTY ? HASTE : spacing;
      const least = fault === null ? usual : backOff(1, Math.random);
      return this.listenAnew(Math.max(0, least - took));
    }
    if (fault === null) return;
    if (!this.isOpen && lasts && silent) {
      return this.end(UNFIT, "What the server says is kept back on the way.");
    }
    this.listenFailures += 1;
    const failures = this.isOpen ? this.listenFailures : FAILURES;
    const delay = this.judge(fault, failures);
    if (delay !== null) this.listenAnew(delay);
  }

  /** Find out how long others on the way let a poll wait. */
  private adapt(took: number, fault: Fault | null): void {
    if (fault !== null) {
      this.calm = 0;
      if (took < WAIT.least * 1_000) return;
      const lasted = Math.min(this.wait, took / 1_000);
      this.wait = Math.max(WAIT.least, Math.floor(lasted / 2));
    } else if (took >= this.wait * 1_000 - MARGIN / 10) {
      this.calm += 1;
      if (this.calm % CALM === 0) this.wait = Math.min(WAIT.most, this.wait + 1);
    }
  }

  // --- saying

  private async say(): Promise<void> {
    // Nobody knows how much a server takes that has not said it.
    if (this.saying !== null || this.over || !this.isOpen) return;
    const { messages, said } = this.gather();
    if (said.length === 0) return;
    this.saying = said;
    let wait = 0;
    try {
      await this.push(messages, PUSH);
      this.sayFailures = 0;
      for (const { channel, track, sayings } of said) {
        track.answered(sayings);
        if (track.leaving && track.waiting.every(({ message }) => message.type === "Update")) {
          this.tracks.delete(channel);
        } else if (sayings.some((one) => track.waiting.includes(one))) {
          // The server has waited for its disk, or doesn't know what it was asked.
          wait = backOff(1, Math.random);
        }
      }
    } catch (error) {
      if (this.over) return;
      for (const { track, sayings } of said) track.lost(sayings);
      this.sayFailures += 1;
      const delay = this.judge(readFault(error), this.sayFailures);
      if (delay === null) return;
      wait = delay;
    }
    if (wait > 0) await new Promise((resolve) => (this.sayTimer = setTimeout(resolve, wait)));
    this.saying = null;
    void this.say();
  }

  /** As much of what waits as one request can hold: of each channel, what is oldest. */
  private gather(): { messages: ClientMessage[]; said: Said[] } {
    const messages: ClientMessage[] = [];
    const said: Said[] = [];
    let room = this.size;
    for (const [channel, track] of this.tracks) {
      if (!track.opened || !(track.isCurrent || track.leaving)) continue;
      const sayings: Track["waiting"] = [];
      for (const one of track.waiting) {
        if (messages.length > 0 && one.octets > room) break;
        if (sayings.length === 0) {
          const first = track.introduce();
          messages.push(first);
          room -= writeClientMessage(first).length;
        }
        messages.push(one.message);
        sayings.push(one);
        room -= one.octets;
      }
      if (sayings.length > 0) said.push({ channel, track, sayings });
    }
    return { messages, said };
  }

  private async ping(message: ClientMessage): Promise<void> {
    try {
      // Beside what is under way: that may wait for the server's disk.
      await this.push([message], PING);
    } catch {
      // Whoever asked notices that there is no answer.
    }
  }

  private async push(messages: ClientMessage[], patience: number): Promise<void> {
    const body = write(messages);
    const control = new AbortController();
    this.pushes.add(control);
    const timer = setTimeout(() => control.abort(), patience + body.length / SPEED);
    try {
      const response = await this.post("push", body, OCTETS, control.signal);
      const octets = new Uint8Array(await response.arrayBuffer());
      for (const frame of createFrameReader()(octets)) this.receive(frame);
    } finally {
      clearTimeout(timer);
      this.pushes.delete(control);
    }
  }

  /** Say goodbye, and whatever else is to be said, whether or not anybody hears it. */
  private leave(): void {
    const messages: ClientMessage[] = [];
    // What is under way is said once more, but for Messages.
    for (const { track, sayings } of this.saying ?? []) track.lost(sayings);
    for (const [channel, track] of this.tracks) {
      if (!track.opened) continue;
      messages.push(track.introduce(), ...track.waiting.map(({ message }) => message));
      if (!track.leaving) messages.push({ type: "Close", channel });
    }
    if (messages.length === 0) return;
    const body = write(messages);
    this.post("push", body, OCTETS, null, body.length < KEPT).catch(() => {
      // The server finds out by itself, a little later.
    });
  }

  /** A page that is left may be shown again, but its requests are over. */
  private readonly hidden = (): void => {
    this.leave();
    this.end(GONE, "The page was left.");
  };

  // --- both

  private async post(
    path: string,
    body: Uint8Array,
    type: string,
    signal: AbortSignal | null,
    keepalive = false,
  ): Promise<Response> {
    const address = new URL(this.address);
    const [name, query] = path.split("?");
    address.pathname += `/${name}`;
    if (query !== undefined) address.search += `${address.search ? "&" : "?"}${query}`;
    const response = await fetch(address, {
      method: "POST",
      headers: { "Content-Type": OCTETS },
      body: joinMessages([this.head, body]) as Uint8Array<ArrayBuffer>,
      credentials: "same-origin",
      cache: "no-store",
      keepalive,
      signal,
    });
    const { status, headers } = response;
    if (status === 200) {
      // A page on which one has to sign in first, say.
      if (headers.get("content-type")?.startsWith(type)) return response;
      throw new Fault("Somebody else answers in the server's place.");
    }
    const text = (await response.text()).trim().slice(0, 200);
    const reason = text && !text.startsWith("<") ? text : `The server answers with ${status}.`;
    const isFinal = [400, 404, 405, 413].includes(status);
    const after = Number(headers.get("retry-after")) * 1_000;
    throw new Fault(reason, isFinal ? REFUSED + status : 0, after > 0 ? after : 0);
  }

  /** Take a frame, and pass on what of it is news. Returns whether it is a Welcome. */
  private receive(frame: Uint8Array): boolean {
    if (this.over) return false;
    let welcomed = false;
    let ended: { code: number; reason: string } | null = null;
    const messages = readServerFrame(frame).flatMap((message): ServerMessage[] => {
      if (message.type === "Welcome") {
        welcomed = true;
        this.heartbeat = message.heartbeat;
        const size = message.size - Math.min(HEADROOM, message.size / 2);
        this.size = Math.floor(size);
        if (this.isOpen) return [];
        this.isOpen = true;
        return [{ ...message, size: this.size }];
      }
      if (message.type === "Ended") ended = message;
      else if (message.channel === 0) return [message as ServerMessage];
      else return this.pass(message as ServerDocumentMessage);
      return [];
    });
    // What is no news is a sign of life.
    if (messages.length === 0) messages.push({ type: "Pong", channel: 0, number: 0 });
    this.handlers.onFrame(joinMessages(messages.map(writeServerMessage)));
    if (ended !== null) {
      const { code, reason } = ended;
      this.end(code, reason);
    }
    void this.say();
    return welcomed;
  }

  private pass(message: ServerDocumentMessage): ServerDocumentMessage[] {
    const { channel } = message;
    const track = this.tracks.get(channel);
    if (track === undefined) return [];
    const news = track.receive(message);
    if (news[0]?.type === "Closed") {
      this.tracks.delete(channel);
      if (message.type !== "Closed") this.listenAnew();
    }
    return news;
  }

  /** Milliseconds after which to try again; null if it is over. */
  private judge({ code, message, after }: Fault, failures: number): number | null {
    if (code === 0 && failures < FAILURES) {
      return Math.max(backOff(failures, Math.random), Math.min(after, CAP));
    }
    this.end(code || GONE, message);
    return null;
  }

  private end(code: number, reason: string): void {
    if (this.over) return;
    this.finish();
    this.handlers.onClose(code, reason);
  }

  private finish(): void {
    this.over = true;
    globalThis.removeEventListener?.("pagehide", this.hidden);
    clearTimeout(this.listenTimer);
    clearTimeout(this.sayTimer);
    this.listening?.abort();
    this.listening = null;
  }
}

function write(messages: ClientMessage[]): Uint8Array<ArrayBuffer> {
  return new Uint8Array(joinMessages(messages.map(writeClientMessage)));
}

function readFault(error: unknown): Fault {
  if (error instanceof Fault) return error;
  if (error instanceof ProtocolError) return new Fault(error.message);
  return new Fault("The server can't be reached.");
}

async function* chunksOf(response: Response): AsyncGenerator<Uint8Array> {
  if (!response.body) return yield new Uint8Array(await response.arrayBuffer());
  const reader = response.body.getReader();
  for (let part; !(part = await reader.read()).done; ) yield part.value;
}
