/** The connection to the server: where it is, how it stands, when it is tried again. */

import * as decoding from "lib0/decoding";
import * as encoding from "lib0/encoding";
import { removeAwarenessStates } from "y-protocols/awareness";
import { writeSyncStep1 } from "y-protocols/sync";
import { messageAuth, messageSync, WebsocketProvider } from "y-websocket";
import type * as Y from "yjs";
import { documentPath } from "./names";

/** The longest wait before the next attempt, in milliseconds. */
const LONGEST_WAIT = 10_000;

/** How long a connection that is in doubt may stay silent, in milliseconds. */
const SILENCE = 3_000;

/** How the connection stands. Times are as `Date.now` gives them. */
export type Connection =
  | { state: "connecting" }
  | { state: "online" }
  | { state: "offline"; attempt: number; retryAt: number }
  | { state: "refused"; reason: string };

/** A provider, and what a person can do about its connection. */
export interface Link {
  provider: WebsocketProvider;
  /** Try now instead of when the wait is over. */
  retry(): void;
}

/** The address of the server's WebSockets, next to the page that we are on. */
export function serverUrl(location: Location): string {
  const url = new URL("ws", location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.search = url.hash = "";
  return url.href;
}

/** Connect a document, stay connected, and tell how the connection stands. */
export function connect(
  name: string,
  doc: Y.Doc,
  changed: (connection: Connection) => void,
  denied: (reason: string) => void,
): Link {
  const provider = new WebsocketProvider(serverUrl(location), documentPath(name), doc, {
    connect: false,
    // Two windows of one browser would hear each other without the server, and the
    // page would show people and edits that the server knows nothing of.
    disableBc: true,
    maxBackoffTime: LONGEST_WAIT,
  });
  let refused = false;

  const retry = (): void => {
    if (!refused) provider.connect();
  };

  provider.on("status", ({ status }) => {
    // Others take our state only with a newer clock than the one that left.
    if (status === "connected") renew(provider);
  });
  provider.on("sync", (synced) => {
    if (synced) changed({ state: "online" });
  });
  provider.on("connection-close", () => {
    // Told before the provider counts this one and waits, as y-websocket 3.1 does.
    const attempt = provider.wsUnsuccessfulReconnects + 1;
    const wait = Math.min(2 ** attempt * 100, LONGEST_WAIT);
    changed({ state: "offline", attempt, retryAt: Date.now() + wait });
  });
  provider.on("closed", ({ code, reason }) => {
    refused = true;
    changed({ state: "refused", reason: explain(code, reason) });
  });
  provider.messageHandlers[messageAuth] = (_encoder, decoder) => {
    if (decoding.readVarUint(decoder) === 0) denied(decoding.readVarString(decoder));
  };

  window.addEventListener("online", retry);
  window.addEventListener("offline", () => probe(provider));
  window.addEventListener("pageshow", ({ persisted }) => {
    if (persisted) location.reload();
  });
  window.addEventListener("pagehide", () => {
    removeAwarenessStates(provider.awareness, [doc.clientID], "page closed");
  });

  changed({ state: "connecting" });
  provider.connect();
  return { provider, retry };
}

/** Announce ourselves again, with a newer clock. */
function renew({ awareness }: WebsocketProvider): void {
  awareness.setLocalState(awareness.getLocalState());
}

/** Ask the server something, and reconnect unless it says anything soon. */
function probe(provider: WebsocketProvider): void {
  if (provider.ws?.readyState !== WebSocket.OPEN) return;
  const { ws } = provider;
  const encoder = encoding.createEncoder();
  encoding.writeVarUint(encoder, messageSync);
  writeSyncStep1(encoder, provider.doc);
  ws.send(encoding.toUint8Array(encoder));

  const asked = Date.now();
  setTimeout(() => {
    if (provider.ws !== ws || provider.wsLastMessageReceived >= asked) return;
    provider.disconnect();
    provider.connect();
  }, SILENCE);
}

/** Say in words why the server won't have us. */
function explain(code: number, reason: string): string {
  switch (code) {
    case 4401:
      return "You need to sign in to open this document.";
    case 4403:
      return "You don't have access to this document.";
    case 4404:
      return "This document was deleted.";
    default:
      return reason === "" ? "The server closed this document." : reason;
  }
}
