/** The WebSocket of the platform, against a real one. */

import { once } from "node:events";
import { createServer, type Server as TcpServer } from "node:net";
import type { AddressInfo } from "node:net";
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { WebSocketServer, type WebSocket as Socket } from "ws";
import { SUBPROTOCOL, webSocket, type Handlers } from "../src/transport.js";

let server: WebSocketServer;
let url: string;

beforeEach(async () => {
  server = new WebSocketServer({ port: 0, host: "127.0.0.1" });
  await once(server, "listening");
  url = `ws://127.0.0.1:${(server.address() as AddressInfo).port}/ws`;
});

afterEach(() => {
  for (const socket of server.clients) socket.terminate();
  server.close();
});

function watch(): Handlers & { words: string[] } {
  const words: string[] = [];
  return {
    words,
    onOpen: () => words.push("open"),
    onFrame: (frame) => words.push(`frame ${[...frame].join(" ")}`),
    onClose: (code, reason) => words.push(`close ${code} ${reason}`),
  };
}

async function accept(): Promise<Socket> {
  const [socket] = (await once(server, "connection")) as [Socket];
  return socket;
}

it("carries frames in both directions, under the subprotocol", async () => {
  const handlers = watch();
  const accepted = accept();
  const carrier = webSocket.open(url, handlers);
  const socket = await accepted;
  expect(socket.protocol).toBe(SUBPROTOCOL);
  await vi.waitFor(() => expect(handlers.words).toEqual(["open"]));
  carrier.send(new Uint8Array([0, 1, 255]).subarray(1));
  const [data, isBinary] = (await once(socket, "message")) as [Buffer, boolean];
  expect([...data]).toEqual([1, 255]);
  expect(isBinary).toBe(true);
  socket.send(new Uint8Array([7, 8]));
  socket.send("text");
  await vi.waitFor(() => expect(handlers.words).toEqual(["open", "frame 7 8", "frame "]));
});

it("tells why the server ended it, once", async () => {
  const handlers = watch();
  const accepted = accept();
  webSocket.open(url, handlers);
  (await accepted).close(4403, "kein Zugriff");
  await vi.waitFor(() => expect(handlers.words).toEqual(["open", "close 4403 kein Zugriff"]));
});

it("tells that there is nobody", async () => {
  const handlers = watch();
  server.close();
  webSocket.open(url, handlers);
  await vi.waitFor(() => expect(handlers.words).toEqual(["close 1006 "]));
});

it("tells that it was no server of ours", async () => {
  const http: TcpServer = createServer((socket) => {
    socket.end("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
  });
  http.listen(0, "127.0.0.1");
  await once(http, "listening");
  const handlers = watch();
  webSocket.open(`ws://127.0.0.1:${(http.address() as AddressInfo).port}/`, handlers);
  await vi.waitFor(() => expect(handlers.words).toEqual(["close 1006 "]));
  http.close();
});

it("tells nothing more once it was closed here", async () => {
  const handlers = watch();
  const accepted = accept();
  const carrier = webSocket.open(url, handlers);
  const socket = await accepted;
  await vi.waitFor(() => expect(handlers.words).toEqual(["open"]));
  socket.send(new Uint8Array([1]));
  // A close frame has room for 123 octets, and a letter may take several.
  carrier.close(4400, "ä".repeat(200));
  const [code, reason] = (await once(socket, "close")) as [number, Buffer];
  expect(code).toBe(4400);
  expect(reason.toString()).toBe("ä".repeat(61));
  carrier.send(new Uint8Array([2]));
  carrier.close(1000, "");
  expect(handlers.words).toEqual(["open"]);
});

it("can be closed before it is open", async () => {
  const handlers = watch();
  const carrier = webSocket.open(url, handlers);
  carrier.close(1000, "");
  await new Promise((resolve) => server.close(resolve));
  expect(handlers.words).toEqual([]);
});
