/** The connection to a server, shared by all documents: when there is one, and which. */

import { Choice, PROBE } from "./choice.js";
import { httpStream, longPolling, serverSentEvents } from "./http.js";
import { Link, type Owner } from "./link.js";
import { backOff, readCode, type CollabError } from "./retry.js";
import { Teller } from "./telling.js";
import { webSocket, type Transport } from "./transport.js";
import type { CollabDocument } from "./document.js";

/**
 * Shows the server who somebody is. A function is called each time that a document is
 * opened, with its name, and when the server wants a newer one; it may ask your own
 * server, and is tried again if that fails.
 */
export type Token = string | ((document: string) => string | Promise<string>);

/**
 * How a connection or a document stands. `disconnected`: nobody wants it open;
 * `waiting`: for the next attempt; `closed`: the server doesn't want us, see `error`.
 */
export type Status = "disconnected" | "connecting" | "connected" | "waiting" | "closed";

/** Tabs of one browser that share a connection; see `collab-client/tabs`. */
export interface Tabs {
  /** The same way to connect, of which only one tab at a time makes use. */
  share(transport: Transport): Transport;
  /** Let a document's edits reach the other tabs while the server can't be reached. */
  join(document: CollabDocument, url: string): () => void;
}

export interface ClientOptions {
  /** The server's address, such as `wss://example.org/ws`; `https:` means the same. */
  url: string;
  /** Where it is without WebSockets; by default, `/api/sync` in the place of `/ws`. */
  fallbackUrl?: string;
  /** By default empty: then what the handshake says counts, such as a cookie. */
  token?: Token;
  /** Whether to connect as soon as there is a document; by default, true. */
  connect?: boolean;
  /**
   * What carries the frames, or several in the order in which to try them. By default,
   * {@link webSocket}, and where that is blocked {@link httpStream},
   * {@link serverSentEvents} or {@link longPolling}.
   */
  transport?: Transport | readonly Transport[];
  /** By default, each tab is on its own. */
  tabs?: Tabs;
  /** By default, `Math.random`: numbers from 0 to below 1, that spread attempts. */
  random?: () => number;
  /** @internal Milliseconds until the first transport is tried again beside another. */
  probe?: number;
}

/** What happens to a {@link CollabClient}. */
export type ClientEvents = {
  status: (status: Status, client: CollabClient) => void;
  /** What carries the frames is another one from now on. */
  transport: (name: string, client: CollabClient) => void;
};

/** Milliseconds that a connection outlives its last document. */
const IDLE = 1_000;

const ALL = [webSocket, httpStream, serverSentEvents, longPolling];

export class CollabClient extends Teller<ClientEvents> {
  readonly url: string;
  status: Status = "disconnected";
  /** Why there is no connection; null while there is one, or nothing was tried. */
  error: CollabError | null = null;
  /** When the next attempt is made, as `Date.now` counts; null if none is planned. */
  retryAt: number | null = null;

  /** @internal */
  readonly random: () => number;
  /** @internal */
  readonly tabs: Tabs | undefined;
  /** @internal */
  link: Link | null = null;

  private token: Token;
  private readonly fallbackUrl: string;
  private readonly choice: Choice;
  private readonly probe: number;
  /** The transport that was told last. */
  private told: string;
  private readonly documents = new Set<CollabDocument>();
  private readonly owner: Owner;
  private wanted: boolean;
  private attempt = 0;
  private timer: ReturnType<typeof setTimeout> | undefined;
  /** The connection that shall follow: both are open until all documents have moved. */
  private next: Link | null = null;
  /** Whether the next one only finds out whether a better transport works. */
  private probing = false;
  private moves = 0;
  private moveTimer: ReturnType<typeof setTimeout> | undefined;
  private probeTimer: ReturnType<typeof setTimeout> | undefined;
  private idleTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(options: ClientOptions) {
    super();
    this.url = options.url;
    this.token = options.token ?? "";
    this.wanted = options.connect ?? true;
    this.random = options.random ?? Math.random;
    this.tabs = options.tabs;
    this.fallbackUrl = options.fallbackUrl ?? options.url;
    this.probe = options.probe ?? PROBE;
    const order = [options.transport ?? ALL].flat() as Transport[];
    this.choice = new Choice(order.map((one) => options.tabs?.share(one) ?? one));
    this.told = this.transportName;
    this.owner = {
      opened: (link) => this.opened(link),
      welcomed: (link) => this.welcomed(link),
      advised: (link, after, window) => this.advised(link, after, window),
      closed: (link, code, reason) => this.closed(link, code, reason),
    };
    listen("add", this.wake);
  }

  /** What carries the frames: `websocket`, `http-stream`, `events` or `polling`. */
  get transportName(): string {
    return (this.link?.transport ?? this.choice.transport).name;
  }

  /** Connect, and stay connected, until {@link disconnect}. The back-off starts anew. */
  connect(): void {
    this.wanted = true;
    this.attempt = 0;
    if (this.link === null) this.begin();
  }

  /** Be offline until {@link connect}. Documents can be edited all the same. */
  disconnect(): void {
    this.wanted = false;
    this.error = null;
    this.end("disconnected");
  }

  /** Disconnect for good, and destroy the documents. */
  override destroy(): void {
    for (const document of [...this.documents]) document.destroy();
    this.disconnect();
    clearTimeout(this.idleTimer);
    listen("remove", this.wake);
    super.destroy();
  }

  /** Use another token from now on, and show it to the server for the open documents. */
  setToken(token: Token): void {
    this.token = token;
    for (const document of this.documents) document.showToken();
  }

  /** Measure the way to the server and back, in milliseconds; null without a connection. */
  async ping(): Promise<number | null> {
    return this.link?.welcome ? this.link.ping() : null;
  }

  /** @internal */
  get currentToken(): Token {
    return this.token;
  }

  /** @internal */
  add(document: CollabDocument): void {
    clearTimeout(this.idleTimer);
    this.documents.add(document);
    if (this.next?.isOpen) document.prepare(this.next);
    if (this.link?.isOpen) document.open(this.link);
    else if (this.wanted && this.status === "disconnected") this.begin();
  }

  /** @internal */
  remove(document: CollabDocument): void {
    this.documents.delete(document);
    if (this.next !== null) this.moveIfReady();
    if (this.documents.size > 0) return;
    this.idleTimer = setTimeout(() => {
      if (this.documents.size === 0) this.end("disconnected");
    }, IDLE);
  }

  /** @internal */
  synced(link: Link): void {
    if (link === this.link) this.attempt = 0;
    else this.moveIfReady();
  }

  /** Try now, or look whether the connection is still alive. */
  private readonly wake = ({ type }: Event): void => {
    if (globalThis.document?.visibilityState === "hidden" && type !== "online") return;
    this.link?.probe();
    if (type === "offline") return;
    if (type === "online") {
      this.choice.renew();
      if (this.link?.welcome) this.planProbe(0);
    }
    if (this.status === "waiting") this.begin();
    for (const document of this.documents) document.wake();
  };

  private begin(): void {
    clearTimeout(this.timer);
    this.retryAt = null;
    if (this.documents.size === 0) return this.become("disconnected");
    this.link = this.connectBy(this.choice.transport);
    this.become("connecting");
  }

  private connectBy(transport: Transport): Link {
    const url = transport.isHttp ? this.fallbackUrl : this.url;
    return new Link(transport, url, this.owner, this.choice.patience(transport));
  }

  private end(status: Status): void {
    clearTimeout(this.timer);
    this.retryAt = null;
    clearTimeout(this.moveTimer);
    clearTimeout(this.probeTimer);
    this.dropNext();
    this.link?.close();
    this.link = null;
    for (const document of this.documents) document.lost();
    this.become(status);
  }

  private opened(link: Link): void {
    for (const document of this.documents) {
      if (link === this.next) document.prepare(link);
      else document.open(link);
    }
  }

  private welcomed(link: Link): void {
    if (link === this.next) return this.moveIfReady();
    this.error = null;
    this.settle(link);
    this.become("connected");
  }

  /** Note that a connection is the one that counts, and works. */
  private settle({ transport }: Link): void {
    this.choice.welcomed(transport);
    this.planProbe();
    if (transport.name === this.told) return;
    this.told = transport.name;
    this.emit("transport", [transport.name, this]);
  }

  private closed(link: Link, code: number, reason: string): void {
    if (link === this.next) {
      const { probing } = this;
      this.next = null;
      this.probing = false;
      for (const document of this.documents) document.abandon();
      if (probing) return this.planProbe();
      this.moves += 1;
      this.planMove(backOff(this.moves, this.random));
    } else if (this.next !== null && (this.next.welcome || !this.probing)) {
      this.move(this.next);
    } else {
      this.dropNext();
      clearTimeout(this.moveTimer);
      clearTimeout(this.probeTimer);
      const isEarly = link.welcome === null;
      const policy = isEarly && this.choice.isEvidence(code) ? "retry" : readCode(code);
      this.link = null;
      this.error = { code, reason, final: policy !== "retry" };
      if (policy !== "retry") return this.end("closed");
      for (const document of this.documents) document.lost();
      if (isEarly && this.choice.failed(code)) return this.begin();
      this.attempt += 1;
      const wait = backOff(this.attempt, this.random);
      this.retryAt = Date.now() + wait;
      this.timer = setTimeout(() => this.begin(), wait);
      this.become("waiting");
    }
  }

  private advised(link: Link, after: number, window: number): void {
    if (link !== this.link) return;
    if (this.probing) this.dropNext();
    if (this.next !== null) return;
    this.moves = 0;
    this.planMove(after + this.random() * window);
  }

  private planMove(wait: number): void {
    clearTimeout(this.moveTimer);
    this.moveTimer = setTimeout(() => {
      if (this.probing) this.dropNext();
      this.next = this.connectBy(this.choice.transport);
    }, wait);
  }

  /** Try a better transport after some time, if there is one. */
  private planProbe(wait?: number): void {
    clearTimeout(this.probeTimer);
    const { better } = this.choice;
    if (better === null) return;
    this.probeTimer = setTimeout(
      () => {
        if (this.next !== null || !this.link?.welcome) return this.planProbe();
        this.probing = true;
        this.next = this.connectBy(better);
      },
      wait ?? this.choice.probeAfter(this.probe, this.random),
    );
  }

  /** Go over to the next connection once each document is as far there as it can be. */
  private moveIfReady(): void {
    const next = this.next;
    if (!next?.welcome) return;
    for (const document of this.documents) if (!document.isReady(next)) return;
    const old = this.link;
    this.move(next);
    old?.close();
  }

  private move(next: Link): void {
    this.link = next;
    this.next = null;
    this.probing = false;
    for (const document of this.documents) document.move(next);
    // Whoever was told of it may wish to be offline.
    if (this.link !== next) return;
    if (next.welcome) this.settle(next);
    this.become(next.welcome ? "connected" : "connecting");
  }

  private dropNext(): void {
    this.next?.close();
    this.next = null;
    this.probing = false;
    for (const document of this.documents) document.abandon();
  }

  private become(status: Status): void {
    const changed = status !== this.status;
    this.status = status;
    for (const document of this.documents) document.refresh();
    // Whoever was told of it may have changed it.
    if (changed && this.status === status) this.emit("status", [status, this]);
  }
}

/** Hear when a connection that failed may work again, or one that works may have died. */
function listen(how: "add" | "remove", wake: (event: Event) => void): void {
  const method = `${how}EventListener` as const;
  globalThis[method]?.("online", wake);
  globalThis[method]?.("offline", wake);
  globalThis[method]?.("pageshow", wake);
  globalThis.document?.[method]("visibilitychange", wake);
}
