// Clients as applications have them, driven over stdin and stdout: one JSON request per
// line, `{id, op, ...}`, and one answer per request, `{id, answer}` or `{id, failed}`.

import { createInterface } from "node:readline";
import { format } from "node:util";
import { kinds, openSocket } from "./providers.mjs";

const clients = new Map();
const sockets = new Map();

/** What went wrong where nobody caught it, as in a provider that hears a message. */
const errors = [];
process.on("uncaughtException", (error) => errors.push(String(error?.stack ?? error)));
process.on("unhandledRejection", (error) => errors.push(String(error?.stack ?? error)));

/** What providers tell the console. */
const said = [];
for (const level of ["log", "info", "warn", "error"]) {
  console[level] = (...things) => said.push(`${level} ${format(...things)}`);
}

/** A WebSocket class that notes what goes over the wire, and when. It may have headers. */
function recording(Socket, { frames, opened, closed }, headers) {
  const bytes = (data) => (typeof data === "string" ? Buffer.from(data) : new Uint8Array(data));
  return class extends Socket {
    constructor(url, protocols) {
      super(url, protocols, { headers });
      frames.push({ at: performance.now(), way: "new", url: String(url) });
      opened.push(this);
      this.addEventListener("message", ({ data }) => {
        frames.push({ at: performance.now(), way: "in", data: bytes(data) });
      });
      this.addEventListener("close", ({ code }) => closed.forEach((tell) => tell(code)));
    }

    send(data) {
      frames.push({ at: performance.now(), way: "out", data: bytes(data) });
      super.send(data);
    }
  };
}

function newRecord(kind, headers) {
  const record = { frames: [], opened: [], closed: [] };
  return { ...record, Socket: recording(kinds[kind].Socket, record, headers) };
}

/** Open a Hocuspocus socket, over which several documents can be opened. */
function socket({ socket, kind, url, options }) {
  const record = newRecord(kind);
  const provider = openSocket(kind, { url, Socket: record.Socket, options });
  sockets.set(socket, { ...record, provider });
}

/** Open a document with one of the providers. */
function open(request) {
  const { client, kind, url, name, clientID, persisted, token, tokenIs, options } = request;
  const { Y, Awareness, newDoc, open } = kinds[kind];
  const doc = newDoc();
  if (clientID !== undefined) doc.clientID = clientID;
  if (persisted !== undefined) Y.applyUpdate(doc, Buffer.from(persisted, "base64"));
  const { awareness: present = true, headers, ...rest } = options;
  const awareness = new Awareness(doc);
  if (!present) awareness.setLocalState(null);
  const shared = sockets.get(request.socket);
  const record = shared ?? newRecord(kind, headers);
  const events = [];
  const note = (event) => event === events.at(-1) || events.push(event);
  const tell = (code) => events.push(`closed ${code}`);
  record.closed.push(tell);
  const access = { token };
  const shapes = { string: token, function: () => access.token, promise: async () => access.token };
  const handle = open({
    url,
    name,
    doc,
    awareness,
    present,
    note,
    Socket: record.Socket,
    frames: record.frames,
    shared: shared?.provider,
    token: token === undefined ? undefined : shapes[tokenIs],
    options: rest,
  });
  if (request.writes !== undefined) doc.getText("text").insert(0, request.writes);
  clients.set(client, { Y, doc, awareness, handle, events, record, tell, access, kept: {} });
}

/** Run a piece of code with a client's things in reach; its value is the answer. */
function run({ client, code, values }) {
  const { Y, doc, awareness, handle, events, record, kept } = clients.get(client);
  const { frames } = record;
  const things = { Y, doc, awareness, provider: handle.provider, events, frames, kept };
  const reach = { ...things, socket: record.opened.at(-1), ...values };
  return new Function(...Object.keys(reach), code)(...Object.values(reach));
}

/** Let a client do something in its own way: `connect`, `disconnect`, `retry`, `say`. */
async function act({ client, what, values }) {
  await clients.get(client).handle[what](...values);
}

/** Whether all that a client wrote is saved, as its provider tells it. */
function saved({ client }) {
  return clients.get(client).handle.saved();
}

/** How many edits of a client that was never offline it was told are saved. */
function acknowledged({ client }) {
  return clients.get(client).handle.acknowledged();
}

/** Change the token that a client gives from now on. */
function renew({ client, token }) {
  const { access, handle } = clients.get(client);
  access.token = token;
  handle.renew();
}

/** Whether the socket is open. */
function connected({ client }) {
  return clients.get(client).record.opened.at(-1)?.readyState === 1;
}

/** The socket (of `ws`) dies without a goodbye; the provider tries again. */
function breakOff({ client }) {
  clients.get(client).record.opened.at(-1).terminate();
}

/** The socket dies without a goodbye, and without another try. */
function die({ client }) {
  const { handle, record } = clients.get(client);
  handle.rest();
  record.opened.at(-1).terminate();
}

/** Free a client, as an application does that closes a document. */
function destroy({ client }) {
  const { handle, awareness, doc, record, tell } = clients.get(client);
  clients.delete(client);
  handle.destroy();
  awareness.destroy();
  doc.destroy();
  record.closed.splice(record.closed.indexOf(tell), 1);
}

/** Free a shared socket. */
function destroySocket({ socket }) {
  sockets.get(socket).provider.destroy();
  sockets.delete(socket);
}

/** How often a shared socket was opened. */
function opened({ socket }) {
  return sockets.get(socket).opened.length;
}

/** What went wrong since this was asked. */
function takeErrors() {
  return errors.splice(0);
}

/** What the console showed since this was asked. */
function takeSaid() {
  return said.splice(0);
}

const operations = {
  ...{ socket, open, run, act, saved, acknowledged, renew, connected, breakOff, die, destroy },
  ...{ destroySocket, opened, takeErrors, takeSaid },
};

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
