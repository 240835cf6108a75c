/** What carries frames between a client and a server, and the WebSocket that does. */

/**
 * The code with which a transport ends if it can't work on this network, and another one
 * may: whoever is in between keeps back what the server says.
 */
export const UNFIT = 3406;

/** What a transport tells of one connection. */
export interface Handlers {
  /** Frames can be sent from now on. */
  onOpen(): void;
  /** A frame arrived, whole and in order. */
  onFrame(frame: Uint8Array): void;
  /** It is over, for whatever reason, also before it opened; told once. */
  onClose(code: number, reason: string): void;
}

/** One connection. */
export interface Carrier {
  /** The octets that were sent and are still here, as far as one can know. */
  readonly buffered: number;
  /** Send a frame; only once it is open. */
  send(frame: Uint8Array): void;
  /** End it. No handler is called any more. */
  close(code: number, reason: string): void;
}

/** A way to connect. */
export interface Transport {
  /** For people, and for logs: `websocket`, `http-stream`, `events`, `polling`. */
  readonly name: string;
  /** Whether it does without WebSockets, at the address of the fallback. */
  readonly isHttp?: boolean;
  open(url: string, handlers: Handlers): Carrier;
}

/** The subprotocol that docs/protocol.md specifies. */
export const SUBPROTOCOL = "collab.v1";

/** The most UTF-8 that a WebSocket's close frame has room for. */
const REASON = 123;

/** Frames as the binary messages of a WebSocket; needs `WebSocket`, as Node 22 has it. */
export const webSocket: Transport = {
  name: "websocket",

  open(url, handlers) {
    const socket = new WebSocket(url.replace(/^http/, "ws"), SUBPROTOCOL);
    socket.binaryType = "arraybuffer";
    let over = false;

    const end = (code: number, reason: string): void => {
      if (over) return;
      over = true;
      handlers.onClose(code, reason);
    };

    socket.onopen = () => {
      if (!over) handlers.onOpen();
    };
    socket.onmessage = ({ data }) => {
      if (over) return;
      // A frame of text is none of ours: read as no octets, it is refused as malformed.
      handlers.onFrame(new Uint8Array(typeof data === "string" ? [] : (data as ArrayBuffer)));
    };
    socket.onclose = ({ code, reason }) => end(code, reason);

    return {
      get buffered() {
        return socket.bufferedAmount;
      },
      send(frame) {
        if (socket.readyState === WebSocket.OPEN) {
          socket.send(frame as Uint8Array<ArrayBuffer>);
        }
      },
      close(code, reason) {
        over = true;
        socket.close(code, cut(reason));
      },
    };
  },
};

/** As much of a text as fits into a close frame. */
function cut(reason: string): string {
  let text = reason.slice(0, REASON);
  while (new TextEncoder().encode(text).length > REASON) text = text.slice(0, -1);
  return text;
}
