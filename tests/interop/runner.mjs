// Clients as applications have them, driven over stdin and stdout: one JSON request per
// line, `{id, op, ...}`, and one answer per request, `{id, answer}` or `{id, failed}`.

import { createInterface } from "node:readline";
import WS from "ws";
import * as awarenessProtocol from "y-protocols/awareness";
import * as y1 from "y-websocket-1";
import * as y2 from "y-websocket-2";
import * as y3 from "y-websocket-3";
import * as Y from "yjs";

const providers = { 1: y1, 2: y2, 3: y3 };
const sockets = { ws: WS, native: globalThis.WebSocket };
const clients = new Map();

/** A WebSocket class that notes what goes over the wire, and when. */
function recording(Socket, frames) {
  return class extends Socket {
    constructor(url, protocols) {
      super(url, protocols);
      frames.push({ at: performance.now(), way: "new", url: String(url) });
      this.addEventListener("message", ({ data }) => {
        frames.push({ at: performance.now(), way: "in", data: new Uint8Array(data) });
      });
    }

    send(data) {
      frames.push({ at: performance.now(), way: "out", data: new Uint8Array(data) });
      super.send(data);
    }
  };
}

/** Open a document with one of the providers. */
function open({ client, clientID, version, socket, url, name, options, persisted }) {
  const doc = new Y.Doc();
  if (clientID !== undefined) doc.clientID = clientID;
  if (persisted !== undefined) Y.applyUpdate(doc, Buffer.from(persisted, "base64"));
  const frames = [];
  const events = [];
  const { awareness = true, ...rest } = options;
  const presence = new awarenessProtocol.Awareness(doc);
  if (!awareness) presence.setLocalState(null);
  const provider = new providers[version].WebsocketProvider(url, name, doc, {
    WebSocketPolyfill: recording(sockets[socket], frames),
    awareness: presence,
    disableBc: true,
    ...rest,
  });
  provider.on("status", ({ status }) => events.push(status));
  provider.on("connection-close", (event) => events.push(`closed ${event?.code ?? "here"}`));
  provider.on("closed", ({ code }) => events.push(`gave up ${code}`));
  clients.set(client, { doc, provider, awareness: presence, frames, events, kept: {} });
}

/** Run a piece of code with a client's things in reach; its value is the answer. */
function run({ client, code, values }) {
  const { frames, ...rest } = clients.get(client);
  const reach = { Y, frames, ...rest, ...values, echoed: () => echoed(frames) };
  return new Function(...Object.keys(reach), code)(...Object.values(reach));
}

/** How many updates came back to who sent them; whether all of this connection did. */
function echoed(frames) {
  const sync = frames.filter(({ way, data }) => way === "new" || data[0] === 0);
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

/** The socket (of `ws`) dies without a goodbye; the provider tries again. */
function breakOff({ client }) {
  clients.get(client).provider.ws.terminate();
}

/** The socket dies without a goodbye, and without another try. */
function die({ client }) {
  const { provider } = clients.get(client);
  provider.shouldConnect = false;
  provider.ws.terminate();
}

/** Free a client, as an application does that closes a document. */
function destroy({ client }) {
  const { provider, awareness, doc } = clients.get(client);
  clients.delete(client);
  provider.destroy();
  awareness.destroy();
  doc.destroy();
}

const operations = { open, run, breakOff, die, destroy };

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  let reply;
  try {
    reply = { answer: (await operations[request.op](request)) ?? null };
  } catch (error) {
    reply = { failed: String(error?.stack ?? error) };
  }
  process.stdout.write(`${JSON.stringify({ id: request.id, ...reply })}\n`);
}
process.exit(0);
