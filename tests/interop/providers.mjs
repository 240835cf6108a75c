// How each provider of the field is opened, and what differs in handling it.
//
// `kinds[kind].open(context)` opens a document and returns a handle: the `provider`, and
// what an application can do with it, in its own way. `context` holds the `url` of the
// server, the document's `name`, `doc` and `awareness` (`present`: whether it is used),
// the `Socket` class, `frames` that went over it, `note` for events, the `token` (as the
// provider wants it, or undefined), the provider's own `options`, and for Hocuspocus
// `shared`, a socket that several documents use.

import * as hocuspocus1 from "@hocuspocus/provider-1";
import * as hocuspocus2 from "@hocuspocus/provider-2";
import * as hocuspocus3 from "@hocuspocus/provider-3";
import * as hocuspocus4 from "@hocuspocus/provider-4";
import { createYjsProvider } from "@y-sweet/client";
import * as awarenessProtocol14 from "@y/protocols/awareness";
import * as y4 from "@y/websocket";
import * as Y14 from "@y/y";
import WS from "ws";
import PartyProvider from "y-partyserver/provider";
import * as awarenessProtocol13 from "y-protocols/awareness";
import * as y1 from "y-websocket-1";
import * as y2 from "y-websocket-2";
import * as y3 from "y-websocket-3";
import * as y3rc from "y-websocket-3-rc";
import * as Y13 from "yjs";

/** How many updates came back to who sent them; whether all of this connection did. */
function echoed(frames) {
  const sync = frames.filter(({ way, data }) => way === "new" || data?.[0] === 0);
  const update = ({ data }) => Buffer.from(data.subarray(2)).toString("base64");
  const sent = sync.filter(({ way, data }) => way === "out" && data[1] > 0);
  const heard = sync.filter(({ way, data }) => way === "in" && data[1] === 2);
  const back = new Set(heard.map(update));
  const opened = sync.findLast(({ way }) => way === "new")?.at;
  const last = sent.filter(({ at }) => at >= opened);
  return {
    back: sent.filter((frame) => back.has(update(frame))).length,
    saved: last.length > 0 && last.every((frame) => back.has(update(frame))),
  };
}

/** How many SyncStatus messages came that said that an edit was taken. */
function taken(frames, provider) {
  const address = Buffer.from(provider.effectiveName ?? provider.configuration.name);
  const text = Buffer.concat([Buffer.from([address.length]), address, Buffer.from([8, 1])]);
  return frames.filter(({ way, data }) => way === "in" && text.equals(data)).length;
}

function yWebsocket({ WebsocketProvider }) {
  return ({ url, name, doc, awareness, Socket, frames, note, token, options }) => {
    const { params, ...rest } = options;
    const access = token === undefined ? {} : { token: token() };
    const provider = new WebsocketProvider(url, name, doc, {
      WebSocketPolyfill: Socket,
      awareness,
      disableBc: true,
      params: { ...params, ...access },
      ...rest,
    });
    provider.on("status", ({ status }) => note(status));
    provider.on("closed", ({ code }) => note(`gave up ${code}`));
    provider.on("sync-status", ({ status }) => note(`sync-status ${status}`));
    return {
      provider,
      // 3.1.0-rc.5 says itself what is confirmed; the others leave it to see the echo.
      saved() {
        if (!("unconfirmedUpdates" in provider)) return echoed(frames).saved;
        const { connected, receivedInitialSync, localUpdatesSynced } = provider.syncStatus;
        return connected && receivedInitialSync && localUpdatesSynced;
      },
      acknowledged: () => echoed(frames).back,
      connect: () => provider.connect(),
      disconnect: () => provider.disconnect(),
      // From 2.1 on `params` may be changed; they are used at the next connection.
      renew() {
        provider.params = { ...provider.params, token: token() };
      },
      retry: () => provider.connect(),
      rest() {
        provider.shouldConnect = false;
      },
      destroy: () => provider.destroy(),
    };
  };
}

/** What Hocuspocus' providers of all versions tell an application. */
function noteHocuspocus(provider, note) {
  provider.on("status", ({ status }) => note(status));
  provider.on("authenticated", (data) =>
    note(`authenticated ${data?.scope ?? provider.authorizedScope ?? ""}`.trim()),
  );
  provider.on("authenticationFailed", ({ reason }) => note(`denied ${reason}`));
  provider.on("stateless", ({ payload }) => note(`stateless ${payload}`));
  // A CLOSE message is reported like the end of a socket, but by another event.
  provider.on("close", ({ event }) => {
    if (!event.type) note(`detached ${event.reason}`);
  });
}

/** Until a provider is offline; before that its connect() does nothing. */
async function disconnected(provider) {
  while (provider.status === "connected") {
    await new Promise((resolve) => provider.on("status", resolve));
  }
}

/** Version 1 has a document per socket, whose name stands in the URL. */
function hocuspocusOne({ HocuspocusProvider }) {
  return ({ url, name, doc, awareness, Socket, frames, note, token, options }) => {
    const provider = new HocuspocusProvider({
      url,
      name,
      document: doc,
      awareness,
      WebSocketPolyfill: Socket,
      broadcast: false,
      quiet: true,
      token: token ?? null,
      ...options,
    });
    noteHocuspocus(provider, note);
    return {
      provider,
      // It counts every update that comes as one of its own that came back.
      saved: () => !provider.hasUnsyncedChanges && echoed(frames).saved,
      acknowledged: () => echoed(frames).back,
      connect: () => provider.connect(),
      disconnect() {
        provider.disconnect();
        return disconnected(provider);
      },
      renew() {},
      retry: () => provider.connect(),
      say: (payload) => provider.sendStateless(payload),
      rest() {
        provider.shouldConnect = false;
      },
      destroy: () => provider.destroy(),
    };
  };
}

/** Versions 2 to 4 have as many documents per socket as one likes. */
function hocuspocus({ HocuspocusProvider, HocuspocusProviderWebsocket }, version) {
  return (context) => {
    const { url, name, doc, awareness, present, Socket, frames, note } = context;
    const { token, options, shared } = context;
    // Version 2 makes no socket over a class that it is given; 3 and 4 make one of
    // their own, and have to be attached to one that others use, too.
    const { connect = true, parameters = {}, ...rest } = options;
    const lone = version === 2 && !shared;
    const given = { url, connect, parameters, WebSocketPolyfill: Socket };
    const websocketProvider = lone ? new HocuspocusProviderWebsocket(given) : shared;
    const own = { url, autoConnect: connect, WebSocketPolyfill: Socket };
    const provider = new HocuspocusProvider({
      ...(websocketProvider ? { websocketProvider } : own),
      name,
      document: doc,
      awareness: present ? awareness : null,
      broadcast: false,
      quiet: true,
      token: token ?? null,
      ...rest,
    });
    noteHocuspocus(provider, note);
    if (version > 2 && shared) provider.attach();
    const socket = provider.configuration.websocketProvider;
    return {
      provider,
      saved: () => !provider.hasUnsyncedChanges && provider.synced,
      // One of them answers what it had at first.
      acknowledged: () => taken(frames, provider) - 1,
      connect: () => (version > 2 && shared ? provider.attach() : provider.connect()),
      disconnect() {
        if (version > 2 && shared) return provider.detach();
        provider.disconnect();
        if (lone) socket.disconnect();
        return shared ? undefined : disconnected(socket);
      },
      renew() {},
      // Version 2 detaches itself when it is denied.
      retry: () => (version === 2 ? provider.connect() : provider.sendToken()),
      say: (payload) => provider.sendStateless(payload),
      rest() {
        socket.shouldConnect = false;
      },
      destroy() {
        provider.destroy();
        if (lone) socket.destroy();
      },
    };
  };
}

function ySweet({ url, name, doc, awareness, Socket, note, token, options }) {
  const endpoint = async () => ({
    url,
    baseUrl: url.replace(/^ws/, "http"),
    docId: name,
    token: token?.(),
    authorization: "full",
  });
  const provider = createYjsProvider(doc, name, endpoint, {
    WebSocketPolyfill: Socket,
    awareness,
    showDebuggerLink: false,
    ...options,
  });
  provider.on("connection-status", note);
  // It reconnects at each end of a socket, also after disconnect() and destroy().
  const rest = () => {
    if (provider.websocket) provider.websocket.onclose = null;
    if (provider.websocket) provider.websocket.onmessage = null;
    provider.clearHeartbeat();
    provider.clearConnectionTimeout();
  };
  return {
    provider,
    saved: () => !provider.hasLocalChanges,
    acknowledged: () => provider.ackedVersion,
    connect: () => provider.connect(),
    disconnect() {
      rest();
      provider.disconnect();
    },
    renew() {},
    retry() {},
    rest,
    destroy() {
      rest();
      provider.attemptToConnect = () => new Promise(() => {});
      provider.destroy();
    },
  };
}

function yPartyserver({ url, name, doc, awareness, Socket, frames, note, token, options }) {
  const { params, ...rest } = options;
  const { host, pathname } = new URL(url);
  const provider = new PartyProvider(host, name, doc, {
    prefix: `${pathname}/${name}`,
    WebSocketPolyfill: Socket,
    awareness,
    disableBc: true,
    params: () => ({ ...params, token: token?.() }),
    ...rest,
  });
  provider.on("status", ({ status }) => note(status));
  provider.on("custom-message", (message) => note(`stateless ${message}`));
  return {
    provider,
    saved: () => echoed(frames).saved,
    acknowledged: () => echoed(frames).back,
    connect: () => provider.connect(),
    disconnect: () => provider.disconnect(),
    renew() {},
    retry() {},
    say: (payload) => provider.sendMessage(payload),
    rest() {
      provider.shouldConnect = false;
    },
    destroy: () => provider.destroy(),
  };
}

const yjs13 = { Y: Y13, Awareness: awarenessProtocol13.Awareness, newDoc: () => new Y13.Doc() };
const yjs14 = {
  Y: Y14,
  Awareness: awarenessProtocol14.Awareness,
  // It has one kind of shared type, for all that there were.
  newDoc: () => Object.assign(new Y14.Doc(), { getText: Y14.Doc.prototype.get }),
};

export const kinds = {
  "1.5": { ...yjs13, Socket: WS, open: yWebsocket(y1) },
  "2.1": { ...yjs13, Socket: WS, open: yWebsocket(y2) },
  "3.1": { ...yjs13, Socket: WS, open: yWebsocket(y3) },
  "3.1-native": { ...yjs13, Socket: globalThis.WebSocket, open: yWebsocket(y3) },
  "3.1-rc": { ...yjs13, Socket: WS, open: yWebsocket(y3rc) },
  "4.0": { ...yjs14, Socket: WS, open: yWebsocket(y4) },
  "hocuspocus-1": { ...yjs13, Socket: WS, open: hocuspocusOne(hocuspocus1) },
  "hocuspocus-2": { ...yjs13, Socket: WS, open: hocuspocus(hocuspocus2, 2) },
  "hocuspocus-3": { ...yjs13, Socket: WS, open: hocuspocus(hocuspocus3, 3) },
  "hocuspocus-4": { ...yjs13, Socket: WS, open: hocuspocus(hocuspocus4, 4) },
  "y-sweet": { ...yjs13, Socket: WS, open: ySweet },
  "y-partyserver": { ...yjs13, Socket: WS, open: yPartyserver },
};

/** A Hocuspocus socket for several documents. */
export function openSocket(kind, { url, Socket, options }) {
  const { HocuspocusProviderWebsocket } = {
    "hocuspocus-2": hocuspocus2,
    "hocuspocus-3": hocuspocus3,
    "hocuspocus-4": hocuspocus4,
  }[kind];
  return new HocuspocusProviderWebsocket({ url, WebSocketPolyfill: Socket, ...options });
}
