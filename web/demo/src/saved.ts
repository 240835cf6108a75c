/**
 * Which of our edits are on the server's disk.
 *
 * The y-websocket protocol has no acknowledgement. The server `collab` gives one by
 * sending an update back to its author, byte for byte, once the transaction that
 * holds it has committed. The same bytes may also come from somebody else, though,
 * who is ahead of the disk: two people who delete the same word write the same
 * update, and after a crash of the server two people may bring back the same edits.
 *
 * A server relays given bytes only once, because afterwards they are no news. So where
 * somebody else could have written the same bytes, we send ours twice and believe
 * the second copy that comes back: at least one of two is our own.
 */

import * as decoding from "lib0/decoding";
import * as encoding from "lib0/encoding";
import { messageYjsSyncStep2, messageYjsUpdate, writeUpdate } from "y-protocols/sync";
import { messageSync, type WebsocketProvider } from "y-websocket";
import * as Y from "yjs";

/** What an update that came back says about ours. */
export type Echo = "foreign" | "saved" | "repeat";

/** Edits that wait for the server, and the bytes whose return sets them free. */
export interface Tracker {
  /** The edits that aren't known to be saved, oldest first. */
  readonly waiting: ReadonlyMap<number, Uint8Array>;
  /** Note an edit made here; it is sent at once if there is a connection. */
  edited(update: Uint8Array): void;
  /** Note a new connection: nothing sent on earlier ones will be answered. */
  opened(): void;
  /** Note that an update with everything that waits was sent. */
  answered(update: Uint8Array): void;
  /** Note an update that came in; after `repeat`, it must be sent once more. */
  received(update: Uint8Array): Echo;
}

/** Bytes on their way, the edits they hold, and how often they must come back. */
interface Claim {
  update: Uint8Array;
  edits: number[];
  returns: number;
}

/** Start with nothing to wait for. */
export function createTracker(): Tracker {
  const waiting = new Map<number, Uint8Array>();
  let claims: Claim[] = [];
  let count = 0;

  return {
    waiting,

    edited(update) {
      count += 1;
      waiting.set(count, update);
      claims.push({ update, edits: [count], returns: onlyDeletes(update) ? 2 : 1 });
    },

    opened() {
      claims = [];
    },

    answered(update) {
      if (waiting.size === 0) return;
      claims.push({ update, edits: [...waiting.keys()], returns: 2 });
    },

    received(update) {
      const claim = claims.find((claim) => equal(claim.update, update));
      if (claim === undefined) return "foreign";
      claim.returns -= 1;
      if (claim.returns > 0) return "repeat";
      claims.splice(claims.indexOf(claim), 1);
      for (const edit of claim.edits) waiting.delete(edit);
      claims = claims.filter(({ edits }) => edits.some((edit) => waiting.has(edit)));
      return "saved";
    },
  };
}

/**
 * Whether an update of version 1 creates nothing: it opens with zero clients.
 *
 * What is created carries our client id and clock, so nobody else writes it first.
 */
function onlyDeletes(update: Uint8Array): boolean {
  return update[0] === 0;
}

function equal(left: Uint8Array, right: Uint8Array): boolean {
  return (
    left.length === right.length && left.every((byte, index) => byte === right[index])
  );
}

/** Milliseconds without an answer after which what waits is sent again. */
const PATIENCE = 10_000;

/** The longest that `PATIENCE` grows to while the server can't save, in milliseconds. */
const MOST_PATIENCE = 300_000;

/** Track the edits of a provider's document, and tell how many wait when that changes. */
export function watchSaved(
  provider: WebsocketProvider,
  changed: (waiting: number) => void,
): Tracker {
  const tracker = createTracker();
  let patience = PATIENCE;
  let timer: ReturnType<typeof setTimeout> | undefined;

  const send = (update: Uint8Array): void => {
    if (provider.ws?.readyState !== WebSocket.OPEN) return;
    const encoder = encoding.createEncoder();
    encoding.writeVarUint(encoder, messageSync);
    writeUpdate(encoder, update);
    provider.ws.send(encoding.toUint8Array(encoder));
  };

  // An answer can get lost without the connection: a server may drop what a slow
  // reader has queued and send one difference instead.
  const ask = (): void => {
    timer = undefined;
    if (tracker.waiting.size === 0) return;
    if (provider.synced) {
      const update = Y.mergeUpdates([...tracker.waiting.values()]);
      tracker.answered(update);
      send(update);
      patience = Math.min(2 * patience, MOST_PATIENCE);
    }
    timer = setTimeout(ask, patience);
  };

  provider.doc.on("update", (update: Uint8Array, origin: unknown) => {
    if (origin === provider) return;
    tracker.edited(update);
    timer ??= setTimeout(ask, patience);
    changed(tracker.waiting.size);
  });

  provider.on("status", ({ status }) => {
    if (status === "connected") tracker.opened();
  });

  const handler = provider.messageHandlers[messageSync]!;
  provider.messageHandlers[messageSync] = (encoder, decoder, ...rest) => {
    const incoming = readSync(decoding.clone(decoder));
    handler(encoder, decoder, ...rest);

    const outgoing = encoding.toUint8Array(encoder);
    if (outgoing.length > 1) {
      const reply = decoding.createDecoder(outgoing);
      decoding.readVarUint(reply);
      const { type, bytes } = readSync(reply);
      if (type === messageYjsSyncStep2) tracker.answered(bytes);
    }
    if (incoming.type !== messageYjsUpdate) return;
    const echo = tracker.received(incoming.bytes);
    if (echo === "foreign") return;
    if (echo === "repeat") send(incoming.bytes);
    clearTimeout(timer);
    patience = PATIENCE;
    timer = tracker.waiting.size > 0 ? setTimeout(ask, patience) : undefined;
    changed(tracker.waiting.size);
  };

  return tracker;
}

/** Read what follows the channel of a sync message: its type and its byte array. */
function readSync(decoder: decoding.Decoder): { type: number; bytes: Uint8Array } {
  const type = decoding.readVarUint(decoder);
  return { type, bytes: decoding.readVarUint8Array(decoder) };
}
