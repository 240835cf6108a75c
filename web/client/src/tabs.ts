/**
 * Tabs of one browser that share a connection.
 *
 * One of them leads: it holds a lock, and the socket. To the others it is a server:
 * their clients speak `collab.v1` to it over a BroadcastChannel, and it passes on what
 * they say under channel numbers of its own. So whatever the server promises, it promises
 * to each of them. If the leader's tab is closed, the lock goes to another tab.
 *
 * While the server can't be reached, tabs tell each other of their edits.
 */

import * as Y from "yjs";
import type { Status, Tabs } from "./client.js";
import type { CollabDocument } from "./document.js";
import type { Carrier, Handlers, Transport } from "./transport.js";
import {
  joinMessages,
  readClientFrame,
  readServerFrame,
  writeClientMessage,
  writeServerMessage,
  type ClientMessage,
  type ServerMessage,
} from "./wire.js";

export interface TabsOptions {
  /** Tabs share only with those of the same group; use one for each user. */
  group?: string;
}

export interface SharedTabs extends Tabs {
  /** Share nothing any more, as if the tab were closed. */
  destroy(): void;
}

/** Milliseconds that a leader has to answer; after that, a tab connects on its own. */
const ANSWER = 2_000;

/** The close code for a connection that is gone without a word. */
const GONE = 1006;

const DONE = 1000;
const MALFORMED = 4400;

/** What tabs say to their leader, and it to them. `port` is a client's connection. */
type Post =
  | { type: "open"; port: string; tab: string }
  | { type: "send"; port: string; frame: Uint8Array }
  | { type: "close"; port: string; code: number; reason: string }
  | { type: "lead"; tab: string }
  | { type: "accepted"; port: string }
  | { type: "opened"; port: string }
  | { type: "frame"; port: string; frame: Uint8Array }
  | { type: "closed"; port: string; code: number; reason: string };

/** What tabs say to each other of a document. */
type News =
  | { type: "vector"; vector: Uint8Array; wanted: boolean }
  | { type: "update"; update: Uint8Array };

/** Share connections with other tabs, if the browser can; else, each has its own. */
export function createTabs({ group = "" }: TabsOptions = {}): SharedTabs {
  const halls: Hall[] = [];
  const talks = new Set<() => void>();

  return {
    share(transport) {
      if (!globalThis.navigator?.locks || !globalThis.BroadcastChannel) return transport;
      const open = new Map<string, Hall>();
      return {
        ...transport,
        open(url, handlers) {
          let hall = open.get(url);
          if (hall === undefined) {
            hall = new Hall(`collab-client ${group} ${transport.name} ${url}`, transport, url);
            open.set(url, hall);
            halls.push(hall);
          }
          return hall.open(handlers);
        },
      };
    },

    join(document, url) {
      if (!globalThis.BroadcastChannel) return () => {};
      const leave = talk(document, `collab-client ${group} ${url} ${document.name}`);
      talks.add(leave);
      return () => {
        leave();
        talks.delete(leave);
      };
    },

    destroy() {
      for (const hall of halls) hall.destroy();
      for (const leave of talks) leave();
    },
  };
}

/** Let edits reach the other tabs while the server doesn't pass them on. */
function talk(document: CollabDocument, name: string): () => void {
  const { doc } = document;
  const channel = new BroadcastChannel(name);
  const post = (news: News): void => channel.postMessage(news);

  const ask = (wanted: boolean): void => {
    post({ type: "vector", vector: Y.encodeStateVector(doc), wanted });
  };
  const edited = (update: Uint8Array, origin: unknown): void => {
    if (document.synced || origin === document || origin === channel) return;
    post({ type: "update", update });
  };
  let asked = false;
  const stands = (status: Status): void => {
    if (status === "connected") asked = false;
    if (status === "connected" || status === "connecting" || asked) return;
    asked = true;
    ask(true);
  };
  channel.onmessage = ({ data }: MessageEvent<News>) => {
    if (data.type === "update") {
      // An edit like our own: it is saved when the server has confirmed it to us.
      Y.applyUpdate(doc, data.update, channel);
    } else {
      post({ type: "update", update: Y.encodeStateAsUpdate(doc, data.vector) });
      if (data.wanted) ask(false);
    }
  };
  doc.on("update", edited);
  document.on("status", stands);

  return () => {
    doc.off("update", edited);
    document.off("status", stands);
    channel.close();
    channel.onmessage = null;
  };
}

/** The tabs that share the connections to one address, as one of them sees it. */
class Hall {
  private readonly name: string;
  private readonly transport: Transport;
  private readonly url: string;
  private readonly tab = crypto.randomUUID();
  private readonly channel: BroadcastChannel;
  private readonly stop = new AbortController();
  private count = 0;
  private leads = false;
  private readonly ready: Promise<void>;
  /** Our clients' connections. */
  private readonly guests = new Map<string, Guest>();
  /** The leader's: connections to the server, and what other tabs have of them. */
  private readonly hubs: Hub[] = [];
  private readonly remote = new Map<string, { tab: string; port: Port }>();
  private readonly watched = new Set<string>();

  constructor(name: string, transport: Transport, url: string) {
    this.name = name;
    this.transport = transport;
    this.url = url;
    this.channel = new BroadcastChannel(name);
    this.channel.onmessage = ({ data }: MessageEvent<Post>) => this.hear(data);
    // The leader finds out by this lock that we are gone, so it must be ours before it
    // hears of us.
    this.ready = new Promise((resolve) => {
      this.hold(`${name} ${this.tab}`, resolve);
    });
    this.hold(name, () => this.lead());
  }

  open(handlers: Handlers): Carrier {
    this.count += 1;
    const port = `${this.tab} ${this.count}`;
    const guest = new Guest(this, port, handlers);
    this.guests.set(port, guest);
    if (this.leads) guest.attach(this.hub());
    else {
      void this.ready.then(() => {
        if (this.guests.has(port)) this.post({ type: "open", port, tab: this.tab });
      });
      // A leader whose tab is frozen answers nothing, and keeps the lock.
      guest.wait(() => guest.connect(this.transport, this.url), ANSWER);
    }
    return guest;
  }

  post(post: Post): void {
    if (!this.stop.signal.aborted) this.channel.postMessage(post);
  }

  leave(port: string): void {
    this.guests.delete(port);
  }

  destroy(): void {
    this.stop.abort();
    this.channel.onmessage = null;
    this.channel.close();
    for (const guest of this.guests.values()) guest.end(GONE, "");
    for (const hub of [...this.hubs]) hub.end(GONE, "");
  }

  /** Hold a lock until we are gone, from when we get it. */
  private hold(name: string, held: () => void): void {
    const { signal } = this.stop;
    const forever = new Promise<void>((resolve) => {
      signal.addEventListener("abort", () => resolve());
    });
    navigator.locks
      .request(name, { signal }, () => {
        held();
        return forever;
      })
      .catch(() => {
        // We stopped waiting.
      });
  }

  private lead(): void {
    if (this.stop.signal.aborted) return;
    this.leads = true;
    this.post({ type: "lead", tab: this.tab });
    for (const guest of [...this.guests.values()]) {
      if (guest.isWaiting) guest.attach(this.hub());
      else if (guest.isRemote) guest.end(GONE, "The tab with the connection was closed.");
    }
  }

  /** The connection for whoever comes now: not one that the server wants us to leave. */
  private hub(): Hub {
    let hub = this.hubs.find(({ advised }) => !advised);
    if (hub === undefined) {
      hub = new Hub(this.transport, this.url, (gone) => {
        this.hubs.splice(this.hubs.indexOf(gone), 1);
      });
      this.hubs.push(hub);
    }
    return hub;
  }

  private hear(post: Post): void {
    switch (post.type) {
      case "open":
        if (this.leads) this.accept(post.port, post.tab);
        break;
      case "send":
        this.remote.get(post.port)?.port.send(post.frame);
        break;
      case "close":
        this.remote.get(post.port)?.port.close(post.code, post.reason);
        this.remote.delete(post.port);
        break;
      case "lead":
        for (const [port, guest] of this.guests) {
          if (guest.isWaiting) this.post({ type: "open", port, tab: this.tab });
          else if (guest.isRemote) guest.end(GONE, "The tab with the connection was closed.");
        }
        break;
      default:
        this.guests.get(post.port)?.hear(post);
    }
  }

  /** Let a client of another tab in. */
  private accept(port: string, tab: string): void {
    if (this.remote.has(port)) return;
    this.post({ type: "accepted", port });
    const line = this.hub().attach({
      onOpen: () => this.post({ type: "opened", port }),
      onFrame: (frame) => this.post({ type: "frame", port, frame }),
      onClose: (code, reason) => {
        this.remote.delete(port);
        this.post({ type: "closed", port, code, reason });
      },
    });
    this.remote.set(port, { tab, port: line });
    if (this.watched.has(tab)) return;
    this.watched.add(tab);
    const { signal } = this.stop;
    navigator.locks
      .request(`${this.name} ${tab}`, { signal }, () => {
        this.watched.delete(tab);
        for (const [name, { tab: owner, port }] of this.remote) {
          if (owner !== tab) continue;
          port.close(DONE, "");
          this.remote.delete(name);
        }
      })
      .catch(() => {
        // We stopped waiting.
      });
  }
}

/** A client's connection, wherever it leads to: another tab, this one, or the server. */
class Guest implements Carrier {
  private readonly hall: Hall;
  private readonly port: string;
  private readonly handlers: Handlers;
  private carrier: Carrier | null = null;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private over = false;
  /** Whether another tab has let us in. */
  isRemote = false;

  constructor(hall: Hall, port: string, handlers: Handlers) {
    this.hall = hall;
    this.port = port;
    this.handlers = handlers;
  }

  get isWaiting(): boolean {
    return !this.isRemote && this.carrier === null;
  }

  wait(then: () => void, time: number): void {
    this.timer = setTimeout(() => {
      if (this.isWaiting) then();
    }, time);
  }

  attach(hub: Hub): void {
    this.settle();
    this.carrier = hub.attach(this.own);
  }

  connect(transport: Transport, url: string): void {
    this.settle();
    this.carrier = transport.open(url, this.own);
  }

  hear(post: Exclude<Post, { type: "open" | "send" | "close" | "lead" }>): void {
    if (post.type === "accepted") {
      if (!this.isWaiting) return this.hall.post({ ...post, type: "close", code: DONE, reason: "" });
      this.settle();
      this.isRemote = true;
    } else if (!this.isRemote) return;
    else if (post.type === "opened") this.handlers.onOpen();
    else if (post.type === "frame") this.handlers.onFrame(post.frame);
    else this.end(post.code, post.reason);
  }

  get buffered(): number {
    return this.carrier?.buffered ?? 0;
  }

  send(frame: Uint8Array): void {
    if (this.isRemote) this.hall.post({ type: "send", port: this.port, frame });
    else this.carrier?.send(frame);
  }

  close(code: number, reason: string): void {
    if (this.over) return;
    this.forget();
    // Also if nobody has let us in: who was frozen may do so yet.
    if (this.carrier === null) {
      this.hall.post({ type: "close", port: this.port, code, reason });
    } else this.carrier.close(code, reason);
  }

  end(code: number, reason: string): void {
    if (this.over) return;
    this.forget();
    this.handlers.onClose(code, reason);
  }

  private get own(): Handlers {
    return {
      onOpen: () => this.handlers.onOpen(),
      onFrame: (frame) => this.handlers.onFrame(frame),
      onClose: (code, reason) => this.end(code, reason),
    };
  }

  private settle(): void {
    clearTimeout(this.timer);
  }

  private forget(): void {
    this.over = true;
    this.settle();
    this.hall.leave(this.port);
  }
}

/** A client's part of a connection. */
interface Port extends Carrier {
  readonly handlers: Handlers;
  /** The channels that it has, as it calls them, and as the server does. */
  readonly channels: Map<number, number>;
}

/** One connection to the server, and those who share it. */
class Hub {
  /** Whether the server wants us to move to another connection. */
  advised = false;

  private readonly carrier: Carrier;
  private readonly gone: (hub: Hub) => void;
  private isOpen = false;
  private over = false;
  private hello = false;
  private welcome: Uint8Array | null = null;
  private readonly ports = new Set<Port>();
  private readonly channels = new Map<number, { port: Port; channel: number }>();
  private readonly pings = new Map<number, { port: Port; number: number }>();
  private count = 0;
  private pinged = 0;

  constructor(transport: Transport, url: string, gone: (hub: Hub) => void) {
    this.gone = gone;
    this.carrier = transport.open(url, {
      onOpen: () => {
        this.isOpen = true;
        for (const { handlers } of [...this.ports]) handlers.onOpen();
      },
      onFrame: (frame) => this.receive(frame),
      onClose: (code, reason) => this.end(code, reason),
    });
  }

  attach(handlers: Handlers): Port {
    const { carrier } = this;
    const port: Port = {
      handlers,
      get buffered() {
        return carrier.buffered;
      },
      channels: new Map(),
      send: (frame) => this.pass(port, frame),
      close: (code, reason) => this.leave(port, code, reason),
    };
    this.ports.add(port);
    if (this.isOpen) {
      queueMicrotask(() => {
        if (this.ports.has(port)) handlers.onOpen();
      });
    }
    return port;
  }

  /** End it for everybody. */
  end(code: number, reason: string): void {
    if (this.over) return;
    this.over = true;
    this.gone(this);
    this.carrier.close(DONE, "");
    for (const { handlers } of [...this.ports]) handlers.onClose(code, reason);
    this.ports.clear();
  }

  private leave(port: Port, code: number, reason: string): void {
    if (!this.ports.delete(port)) return;
    // One found that it is dead, or worse: so it is for all. But another tab doesn't see
    // how much there is to be sent before its Ping.
    if (code !== DONE && this.carrier.buffered === 0) {
      this.carrier.close(code, reason);
      return this.end(GONE, reason);
    }
    const closes = [...port.channels.values()].map((channel) =>
      writeClientMessage({ type: "Close", channel }),
    );
    if (closes.length > 0) this.carrier.send(joinMessages(closes));
    for (const channel of port.channels.values()) this.channels.delete(channel);
    if (this.ports.size === 0) this.end(DONE, "");
  }

  /** Tell the server what a client says. */
  private pass(port: Port, frame: Uint8Array): void {
    if (!this.isOpen || this.over) return;
    const messages = readClientFrame(frame)
      .map((message) => this.translate(port, message))
      .filter((message) => message !== null);
    if (messages.length > 0) this.carrier.send(joinMessages(messages.map(writeClientMessage)));
  }

  private translate(port: Port, message: ClientMessage): ClientMessage | null {
    if (message.type === "Hello") {
      if (this.welcome !== null) port.handlers.onFrame(this.welcome);
      if (this.hello) return null;
      this.hello = true;
      return message;
    }
    if (message.type === "Ping") {
      this.pinged += 1;
      this.pings.set(this.pinged, { port, number: message.number });
      return { ...message, number: this.pinged };
    }
    if (message.type === "Open") {
      this.count += 1;
      port.channels.set(message.channel, this.count);
      this.channels.set(this.count, { port, channel: message.channel });
    }
    const channel = port.channels.get(message.channel);
    if (channel === undefined) return null;
    if (message.type === "Close") {
      port.channels.delete(message.channel);
      this.channels.delete(channel);
    }
    return { ...message, channel };
  }

  /** Tell each client what the server says to it. */
  private receive(frame: Uint8Array): void {
    const parts = new Map<Port, Uint8Array[]>();
    const add = (port: Port, message: ServerMessage): void => {
      const messages = parts.get(port) ?? [];
      messages.push(writeServerMessage(message));
      parts.set(port, messages);
    };
    try {
      for (const message of readServerFrame(frame)) this.distribute(message, add);
    } catch {
      this.carrier.close(MALFORMED, "");
      return this.end(GONE, "The server was not understood.");
    }
    for (const [port, messages] of parts) {
      if (this.ports.has(port)) port.handlers.onFrame(joinMessages(messages));
    }
  }

  private distribute(
    message: ServerMessage,
    add: (port: Port, message: ServerMessage) => void,
  ): void {
    if (message.type === "Welcome") this.welcome = writeServerMessage(message);
    if (message.type === "Reconnect") this.advised = true;
    if (message.type === "Pong" && message.number !== 0) {
      const ping = this.pings.get(message.number);
      this.pings.delete(message.number);
      if (ping !== undefined) add(ping.port, { ...message, number: ping.number });
    } else if (message.channel === 0) {
      for (const port of this.ports) add(port, message);
    } else {
      const place = this.channels.get(message.channel);
      if (place === undefined) return;
      add(place.port, { ...message, channel: place.channel });
      if (message.type !== "Closed") return;
      this.channels.delete(message.channel);
      place.port.channels.delete(place.channel);
    }
  }
}
