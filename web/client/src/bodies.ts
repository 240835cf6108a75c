/** The bodies of HTTP's responses, taken apart into frames as they arrive. */

import { joinMessages, ProtocolError } from "./wire.js";

/** Takes what has arrived, and returns the frames that are whole by then. */
export type BodyReader = (chunk: Uint8Array) => Uint8Array[];

/** The most octets of a frame: more is a mistake, not a frame. */
const MOST = 2 ** 28;

/** Read frames that stand one behind the other, each after its length. */
export function createFrameReader(): BodyReader {
  let parts: Uint8Array[] = [];
  let held = 0;
  /** The octets without which it is pointless to look. */
  let needed = 1;

  return (chunk) => {
    parts.push(chunk);
    held += chunk.length;
    if (held < needed) return [];
    const octets = joinMessages(parts);
    const frames: Uint8Array[] = [];
    let at = 0;
    for (;;) {
      let size = 0;
      let from = at;
      for (let scale = 1; ; scale *= 128) {
        if (scale > MOST || size > MOST) throw new ProtocolError("a frame is too long");
        if (from === octets.length) {
          from = -1;
          break;
        }
        const octet = octets[from++]!;
        size += (octet & 127) * scale;
        if (octet < 128) break;
      }
      needed = from < 0 ? octets.length - at + 1 : from - at + size;
      if (octets.length - at < needed) break;
      frames.push(octets.subarray(from, from + size));
      at = from + size;
    }
    parts = [octets.subarray(at)];
    held = octets.length - at;
    return frames;
  };
}

/** Read server-sent events, the data of which is a frame in base64. */
export function createEventReader(): BodyReader {
  const decoder = new TextDecoder();
  let text = "";
  let seen = 0;
  let data = "";

  return (chunk) => {
    text += decoder.decode(chunk, { stream: true });
    if (text.length + data.length > 2 * MOST) throw new ProtocolError("an event is too long");
    const frames: Uint8Array[] = [];
    let from = 0;
    for (let end; (end = text.indexOf("\n", Math.max(from, seen))) >= 0; from = end + 1) {
      const line = text.slice(from, end).replace(/\r$/, "");
      if (line.startsWith("data:")) data += line.slice(5).trim();
      else if (line === "" && data !== "") {
        frames.push(readBase64(data));
        data = "";
      }
    }
    text = text.slice(from);
    seen = text.length;
    return frames;
  };
}

function readBase64(text: string): Uint8Array {
  try {
    return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  } catch {
    throw new ProtocolError("an event is not base64");
  }
}
