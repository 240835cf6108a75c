/**
 * A document, kept the same as the server's, and what is known of the difference.
 *
 * `saved` is the promise of this module: while it is true, the server has on its disk
 * whatever was written here. So every edit is noted before it is sent, and forgotten
 * only when the message that held it is confirmed.
 */

import { Awareness } from "y-protocols/awareness";
import * as Y from "yjs";
import { Channel } from "./channel.js";
import type { CollabClient, Status, Token } from "./client.js";
import { Edits } from "./edits.js";
import { newId } from "./id.js";
import type { Link } from "./link.js";
import { Presence } from "./presence.js";
import { backOff, readCode, type CollabError } from "./retry.js";
import type { Persistence, Kept, Shelf } from "./shelf.js";
import { attempt, Teller } from "./telling.js";
import type { ServerDocumentMessage } from "./wire.js";

/** Whether the server takes edits. */
export type Access = "read" | "write";

export interface DocumentOptions {
  /** By default, a new one. What is in it counts as an edit. */
  doc?: Y.Doc;
  /** By default, a new one. */
  awareness?: Awareness;
  /** By default, the client's. */
  token?: Token;
  /** By default, edits are gone with the page. */
  persistence?: Persistence;
  /**
   * Whether the browser asks before the page is left while edits are neither saved nor
   * kept in the browser; by default, true.
   */
  guard?: boolean;
}

/** What happens to a {@link CollabDocument}. */
export type DocumentEvents = {
  status: (status: Status, document: CollabDocument) => void;
  synced: (synced: boolean, document: CollabDocument) => void;
  saved: (saved: boolean, document: CollabDocument) => void;
  progress: (progress: number, document: CollabDocument) => void;
  access: (access: Access, document: CollabDocument) => void;
  error: (error: CollabError | null, document: CollabDocument) => void;
  /** An edit was not taken, and is in this copy only. */
  refused: (reason: string, document: CollabDocument) => void;
  /** Somebody, `user`, sent something. */
  message: (payload: Uint8Array, user: string, document: CollabDocument) => void;
  destroy: (document: CollabDocument) => void;
};

/** Close codes that another token may change: who are you, and you may not. */
const UNKNOWN = 4401;
const DENIED = 4403;

/** The most octets of a message to others. */
const MESSAGE = 64 * 1024;

/** The octets of an Update around its update, and some. */
const OVERHEAD = 64;

/** How long the browser may take to read what it kept, in milliseconds. */
const LOADING = 5_000;

/** How long the application may take to fetch a token, in milliseconds. */
const FETCHING = 30_000;

export class CollabDocument extends Teller<DocumentEvents> {
  readonly name: string;
  readonly doc: Y.Doc;
  readonly awareness: Awareness;

  status: Status = "disconnected";
  /** Whether all that the server had when the connection began is here. */
  synced = false;
  /** Whether all that is here is on the server's disk. */
  saved: boolean;
  /** How much of the document has arrived: 0 to 1, and 1 ever after. */
  progress = 0;
  /** What the server allows; null until it has said so. */
  access: Access | null = null;
  /** Why the document isn't open; null while it is, or nothing was tried. */
  error: CollabError | null = null;
  /** Resolves when the document was synced for the first time. */
  readonly whenSynced: Promise<void>;
  /** Resolves when what the browser kept is here, or there is nothing. */
  readonly whenLoaded: Promise<void>;

  private readonly client: CollabClient;
  private readonly token: Token | undefined;
  private readonly owns: { doc: boolean; awareness: boolean };
  private readonly guards: boolean;
  private readonly edits = new Edits();
  private readonly presence: Presence;
  private shelf: Shelf | null = null;
  private loaded = false;
  /** Whether what comes is from the browser's copy. */
  private loading = false;
  /** What is wrong with this document, whatever the connection. */
  private problem: CollabError | null = null;
  /** Whether nobody has compared what is in the document with the server's. */
  private unknown: boolean;
  private epoch = "";
  private position = 0;
  private received = 0;
  private channel: Channel | null = null;
  /** The place on the connection that shall follow. */
  private spare: Channel | null = null;
  private attempt = 0;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private waiting = false;
  private leave: (() => void) | undefined;
  private destroyed = false;
  private resolveSynced!: () => void;

  constructor(client: CollabClient, name: string, options: DocumentOptions = {}) {
    super();
    this.client = client;
    this.name = name;
    this.doc = options.doc ?? new Y.Doc();
    this.awareness = options.awareness ?? new Awareness(this.doc);
    this.owns = { doc: !options.doc, awareness: !options.awareness };
    this.token = options.token;
    this.guards = options.guard ?? true;
    this.unknown = this.doc.store.clients.size > 0;
    this.whenSynced = new Promise((resolve) => (this.resolveSynced = resolve));
    this.shelf = options.persistence?.open(name) ?? null;
    this.saved = this.shelf === null && !this.unknown;
    this.doc.on("update", this.edited);
    this.doc.on("destroy", this.gone);
    this.presence = new Presence(this.awareness, (states) => this.announce(states));
    client.add(this);
    this.whenLoaded = this.load();
    this.leave = client.tabs?.join(this, client.url);
  }

  /** How many edits wait to be saved, for people. */
  get unsaved(): number {
    return this.edits.count;
  }

  /** Whether the browser has on its disk all that was written here. */
  get kept(): boolean {
    return this.shelf?.written ?? false;
  }

  /** Resolves as soon as everything is saved. */
  whenSaved(): Promise<void> {
    if (this.saved) return Promise.resolve();
    return new Promise((resolve) => {
      const check = (saved: boolean): void => {
        if (!saved) return;
        this.off("saved", check);
        resolve();
      };
      this.on("saved", check);
    });
  }

  /**
   * Send something to everybody else who has the document open, or to one user: at most
   * 64 KiB. It is delivered at most once, now or never.
   *
   * @returns Whether it was sent at all: there may be no connection.
   */
  send(payload: Uint8Array, user = ""): boolean {
    if (payload.length > MESSAGE) {
      throw new RangeError(`message of ${payload.length} octets; ${MESSAGE} are allowed`);
    }
    if (!this.channel?.opened) return false;
    return this.channel.send({ type: "Message", user, payload });
  }

  /** Try again to open it, if the server didn't want us. */
  retry(): void {
    if (this.channel !== null || this.destroyed) return;
    this.problem = null;
    this.reopen();
    if (this.client.link === null) this.client.connect();
  }

  /** Close it. What is not saved is lost, unless the browser keeps it. */
  override destroy(): void {
    if (this.destroyed) return;
    this.destroyed = true;
    clearTimeout(this.timer);
    this.leave?.();
    this.doc.off("update", this.edited);
    this.doc.off("destroy", this.gone);
    globalThis.removeEventListener?.("beforeunload", this.left);
    this.presence.destroy();
    if (this.owns.awareness) attempt(() => this.awareness.destroy());
    this.channel?.close();
    this.spare?.close();
    this.channel = this.spare = null;
    this.client.remove(this);
    void this.shelf?.close();
    if (this.owns.doc) attempt(() => this.doc.destroy());
    this.set("synced", false);
    this.set("status", "disconnected");
    this.emit("destroy", [this]);
    super.destroy();
  }

  /** @internal Open it on a connection. */
  open(link: Link): void {
    if (!this.loaded || this.waiting || this.problem?.final || this.channel !== null) return;
    this.channel = new Channel(this, link);
    this.ask(this.channel);
    this.refresh();
  }

  /** @internal Open it on the next connection, while it is open on another. */
  prepare(link: Link): void {
    if (this.channel === null || this.spare !== null) return;
    this.spare = new Channel(this, link);
    this.ask(this.spare);
  }

  /** @internal Whether the next connection is as good as the present one. */
  isReady(next: Link): boolean {
    return this.spare === null || this.spare.link !== next || this.spare.synced;
  }

  /** @internal The next connection is the present one from now on. */
  move(next: Link): void {
    const old = this.channel;
    const spare = this.spare;
    this.spare = null;
    // Whoever was told of the move may have opened it there.
    if (old?.link === next) return;
    if (spare === null) {
      this.lost();
      if (next.isOpen) this.open(next);
      return this.refresh();
    }
    old?.close();
    this.channel = spare;
    this.edits.lost();
    if (spare.opened) this.entered(spare);
    if (spare.synced) this.caughtUp(spare);
    this.refresh();
  }

  /** @internal There will be no next connection for now. */
  abandon(): void {
    this.spare = null;
  }

  /** @internal The channel is gone, or the connection; {@link refresh} tells it. */
  lost(): void {
    if (this.channel?.synced) this.presence.lost();
    this.channel = null;
    this.edits.lost();
  }

  /** @internal Try now what was put off. */
  wake(): void {
    if (this.waiting) this.reopen();
  }

  private reopen(): void {
    clearTimeout(this.timer);
    this.waiting = false;
    if (this.client.link?.isOpen) this.open(this.client.link);
    this.refresh();
  }

  /** @internal Show the server a new token. */
  showToken(): void {
    for (const channel of [this.channel, this.spare]) {
      if (channel?.opened) void this.provide(channel);
    }
    if (isOfToken(this.problem?.code)) this.retry();
  }

  /** @internal Tell how it stands, if that has changed. */
  refresh(): void {
    if (this.destroyed) return;
    this.set("synced", this.channel?.synced ?? false);
    this.set("error", this.problem ?? (this.channel?.opened ? null : this.client.error));
    // Whoever was told of it may have destroyed it.
    if (!this.destroyed) this.set("status", this.current);
  }

  private get current(): Status {
    if (this.channel !== null) return this.channel.opened ? "connected" : "connecting";
    if (this.problem?.final) return "closed";
    if (this.waiting) return "waiting";
    return this.client.status === "connected" ? "connecting" : this.client.status;
  }

  /** @internal */
  receive(channel: Channel, message: ServerDocumentMessage): void {
    switch (message.type) {
      case "Opened":
        return this.wasOpened(channel, message);
      case "Piece":
        channel.behind = true;
        if (this.progress < 1) this.received += message.update.length;
        this.apply(message.update);
        if (this.progress < 1 && channel.total > 0) {
          // Not 1 before Synced, whatever the server announced.
          this.set("progress", Math.min(this.received / channel.total, 0.999));
        }
        return;
      case "Synced":
        channel.synced = true;
        channel.behind = false;
        this.reached(channel, message.position);
        if (channel === this.channel) this.caughtUp(channel);
        return this.client.synced(channel.link);
      case "Update":
        this.apply(message.update);
        return this.reached(channel, message.position);
      case "Saved": {
        this.reached(channel, message.position);
        if (channel === this.channel) {
          const ids = this.edits.saved(message.sequence);
          if (ids.length > 0) this.shelf?.confirm(ids);
          this.count();
        }
        return;
      }
      case "Refused":
        if (channel !== this.channel) return;
        this.edits.refused(message.sequence);
        // Over HTTP, what was said first may come last.
        if (channel.writable) this.later(channel, () => this.flush());
        this.emit("refused", [message.reason, this]);
        return;
      case "Access":
        channel.writable = message.writable;
        this.supply(channel);
        if (channel === this.channel) this.allow(channel);
        return;
      case "Question":
        return this.answer(channel, message.vector);
      case "Presence":
        for (const client of this.presence.hear(message.states)) channel.seen.add(client);
        return;
      case "Message":
        // It comes on both connections while we move.
        if (channel === this.channel) {
          this.emit("message", [message.payload, message.user, this]);
        }
        return;
      case "TokenWanted":
        // A fixed one was shown already.
        if (typeof this.currentToken === "function") void this.provide(channel);
        return;
      case "Closed":
        return this.wasClosed(channel, message.code, message.reason);
    }
  }

  private get currentToken(): Token {
    return this.token ?? this.client.currentToken;
  }

  private async load(): Promise<void> {
    const shelf = this.shelf;
    if (shelf !== null) {
      try {
        this.put(await within(shelf.load(), LOADING));
      } catch (error) {
        if (this.destroyed) return;
        this.shelf = null;
        void shelf.close();
        console.warn(`collab: ${this.name} is not kept in this browser:`, error);
      }
    }
    if (this.destroyed) return;
    this.loaded = true;
    this.count();
    if (this.client.link?.isOpen) this.open(this.client.link);
  }

  /** Put what the browser kept into the document. */
  private put(kept: Kept): void {
    if (this.destroyed) return;
    if (this.unknown) {
      // It was there before, and may be gone with this page.
      this.note(Y.encodeStateAsUpdate(this.doc));
      this.unknown = false;
    }
    this.epoch = kept.epoch;
    this.position = kept.position;
    this.loading = true;
    attempt(() => {
      Y.transact(
        this.doc,
        () => {
          for (const update of kept.updates) this.putOne(update);
        },
        this,
        false,
      );
    });
    this.loading = false;
    for (const [id, update] of kept.unsaved) this.edits.add(update, id);
  }

  private putOne(update: Uint8Array): void {
    try {
      this.apply(update);
    } catch (error) {
      // What it deleted is not in any state vector: all of ours is sent, once.
      this.unknown = true;
      console.warn(`collab: a part of ${this.name} was damaged in this browser:`, error);
    }
  }

  /** Open the document, once there is a token. */
  private ask(channel: Channel): void {
    const token = this.currentToken;
    // At once if possible, so that it goes out with Hello.
    if (typeof token === "string") {
      channel.token = token;
      return this.introduce(channel, token);
    }
    void this.fetchToken(channel).then((token) => {
      if (token !== null && this.has(channel)) this.introduce(channel, token);
    });
  }

  private introduce(channel: Channel, token: string): void {
    channel.send({
      type: "Open",
      name: this.name,
      token,
      vector: Y.encodeStateVector(this.doc),
      epoch: this.epoch,
      position: this.position,
    });
    channel.asked = true;
    this.presence.renew();
  }

  private async provide(channel: Channel): Promise<void> {
    const token = await this.fetchToken(channel);
    if (token !== null && this.has(channel)) channel.send({ type: "Token", token });
  }

  /** A token, or null if there is none now; a document that needs one then waits. */
  private async fetchToken(channel: Channel): Promise<string | null> {
    const token = this.currentToken;
    channel.token = token;
    try {
      if (typeof token === "string") return token;
      const fetched = await within(token(this.name), FETCHING);
      if (typeof fetched === "string") return fetched;
      throw new TypeError("it is not a text");
    } catch (error) {
      if (this.has(channel)) {
        const reason = `There is no token: ${error instanceof Error ? error.message : String(error)}`;
        if (channel.asked) this.later(channel, () => void this.provide(channel));
        else this.wasClosed(channel, 0, reason);
      }
      return null;
    }
  }

  /** Try something again after some time, if the channel is still there. */
  private later(channel: Channel, act: () => void): void {
    channel.attempt += 1;
    setTimeout(
      () => {
        if (this.has(channel)) act();
      },
      backOff(channel.attempt, this.client.random),
    );
  }

  private has(channel: Channel): boolean {
    return channel === this.channel || channel === this.spare;
  }

  private wasOpened(
    channel: Channel,
    message: Extract<ServerDocumentMessage, { type: "Opened" }>,
  ): void {
    channel.opened = true;
    channel.writable = message.writable;
    channel.epoch = message.epoch;
    channel.total = this.received + message.size;
    // What was deleted is in no state vector.
    const isAnother = this.epoch !== "" && message.epoch !== this.epoch;
    if (message.epoch !== this.epoch) {
      this.epoch = message.epoch;
      this.position = 0;
    }
    if (isAnother || this.isLacking(message.vector)) channel.lacking = message.vector;
    this.supply(channel);
    if (channel.token !== this.currentToken) void this.provide(channel);
    if (channel === this.channel) this.entered(channel);
    else this.flush();
  }

  /** The channel is the one that counts from now on, and edits can be sent. */
  private entered(channel: Channel): void {
    this.problem = null;
    this.refresh();
    this.allow(channel);
  }

  private caughtUp(channel: Channel): void {
    this.attempt = 0;
    this.presence.found(channel.seen);
    this.set("progress", 1);
    this.set("synced", true);
    this.resolveSynced();
  }

  private allow(channel: Channel): void {
    this.set("access", channel.writable ? "write" : "read");
    this.flush();
  }

  private wasClosed(channel: Channel, code: number, reason: string): void {
    channel.link.leave(channel.number);
    if (channel === this.spare) {
      this.spare = null;
      return this.client.synced(channel.link);
    }
    // Another token may have come meanwhile.
    const isStale = isOfToken(code) && channel.token !== this.currentToken;
    const policy = isStale ? "retry" : readCode(code);
    this.lost();
    this.problem = { code, reason, final: policy !== "retry" };
    if (policy === "retry") {
      this.attempt += 1;
      this.waiting = true;
      this.timer = setTimeout(
        () => this.reopen(),
        backOff(this.attempt, this.client.random),
      );
    }
    this.refresh();
  }

  /** Merge what the server said, or the browser kept. */
  private apply(update: Uint8Array): void {
    try {
      Y.applyUpdate(this.doc, update, this);
    } catch (error) {
      // Malformed, or an observer of the application failed: nobody knows. So the next
      // opening starts from the state vector.
      this.position = 0;
      this.epoch = "";
      throw error;
    }
  }

  /** Note that everything up to a position is here. */
  private reached(channel: Channel, position: number): void {
    // Before Synced, what a position counts may still be on its way.
    if (!channel.synced || channel.behind) return;
    if (channel.epoch !== this.epoch || position <= this.position) return;
    this.position = position;
    this.shelf?.reach(this.epoch, position);
  }

  private readonly edited = (update: Uint8Array, origin: unknown): void => {
    if (origin === this) return this.loading ? undefined : this.shelf?.add(update);
    this.note(update);
    this.flush();
  };

  /** Note an edit, to be sent and kept. */
  private note(update: Uint8Array): void {
    const id = newId();
    this.edits.add(update, id);
    this.shelf?.edit(id, update);
    this.count();
  }

  /** Send the edits that wait, if the server takes any. */
  private flush(): void {
    const channel = this.channel;
    if (!channel?.opened || !channel.writable) return;
    const limit = channel.link.size - OVERHEAD;
    for (const edit of this.edits.waiting(limit)) {
      if (edit.update.length > limit) {
        const reason = `An edit of ${edit.update.length} octets is too large to be saved.`;
        this.problem = { code: 1009, reason, final: false };
        return this.refresh();
      }
      edit.sequence = channel.update(edit.update);
    }
  }

  private answer(channel: Channel, vector: Uint8Array): void {
    const update = this.difference(vector);
    if (update.length <= channel.link.size - OVERHEAD) channel.update(update);
  }

  /** Whether the server lacks anything but the edits that wait. */
  private isLacking(vector: Uint8Array): boolean {
    if (this.unknown) return true;
    const theirs = Y.decodeStateVector(vector);
    const waiting = this.edits.joined();
    const { from, to } = waiting
      ? Y.parseUpdateMeta(waiting)
      : { from: new Map<number, number>(), to: new Map<number, number>() };
    const ours = Y.decodeStateVector(Y.encodeStateVector(this.doc));
    return [...ours].some(([client, clock]) => {
      const known = theirs.get(client) ?? 0;
      if (clock <= known) return false;
      return (from.get(client) ?? Infinity) > known || (to.get(client) ?? 0) < clock;
    });
  }

  /** Note what the server lacks: who may only read leaves to others what they wrote. */
  private supply(channel: Channel): void {
    const { lacking, writable } = channel;
    if (lacking === null || !(writable || this.unknown)) return;
    channel.lacking = null;
    this.unknown = false;
    this.note(this.difference(lacking));
  }

  private difference(vector: Uint8Array): Uint8Array {
    return Y.encodeStateAsUpdate(this.doc, vector);
  }

  private announce(states: Uint8Array): void {
    for (const channel of [this.channel, this.spare]) {
      if (channel?.asked) channel.send({ type: "Presence", states });
    }
  }

  private readonly left = (event: Event): void => {
    if (!this.guards || this.access === "read") return;
    if (!this.kept) event.preventDefault();
  };

  private readonly gone = (): void => this.destroy();

  private count(): void {
    // Only while it is needed: a page that listens is not kept alive for the way back.
    if (this.edits.count > 0) globalThis.addEventListener?.("beforeunload", this.left);
    else globalThis.removeEventListener?.("beforeunload", this.left);
    this.set("saved", this.loaded && !this.unknown && this.edits.count === 0);
  }

  /** Change what is known, and tell those who want to know. */
  private set<Name extends "status" | "synced" | "saved" | "progress" | "access" | "error">(
    name: Name,
    value: this[Name],
  ): void {
    if (this[name] === value) return;
    this[name] = value;
    this.emit(name, [value, this] as unknown as Parameters<DocumentEvents[Name]>);
  }
}

function isOfToken(code: number | undefined): boolean {
  return code === UNKNOWN || code === DENIED;
}

/** The same value, but rejected if it takes longer than so many milliseconds. */
async function within<Value>(value: Value | Promise<Value>, time: number): Promise<Value> {
  let timer;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error("it takes too long")), time);
  });
  try {
    return await Promise.race([value, late]);
  } finally {
    clearTimeout(timer);
  }
}
