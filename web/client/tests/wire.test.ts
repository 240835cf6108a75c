import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import {
  joinMessages,
  ProtocolError,
  readClientFrame,
  readStates,
  readServerFrame,
  writeClientMessage,
  writeServerMessage,
  type ClientMessage,
  type ServerMessage,
} from "../src/wire.js";

import { createRandom } from "./world.js";

type Sender = "client" | "server";

interface Frame {
  name: string;
  from: Sender;
  hex: string;
  message?: Record<string, unknown>;
  messages?: Record<string, unknown>[];
}

const { frames, malformed } = JSON.parse(
  readFileSync(new URL("../../../tests/vectors/native.json", import.meta.url), "utf8"),
) as { frames: Frame[]; malformed: Frame[] };

/** The fields that are bytes, and stand as hexadecimal in the vectors. */
const DATA = new Set(["vector", "update", "states", "payload", "key", "known"]);

function bytes(hex: string): Uint8Array {
  return new Uint8Array(Buffer.from(hex, "hex"));
}

function expected({ message, messages }: Frame): Record<string, unknown>[] {
  return (messages ?? [message!]).map((one) =>
    Object.fromEntries(
      Object.entries(one).map(([field, value]) => [
        field,
        DATA.has(field) ? bytes(value as string) : value,
      ]),
    ),
  );
}

function read(from: Sender, frame: Uint8Array): object[] {
  return from === "client" ? readClientFrame(frame) : readServerFrame(frame);
}

function write(from: Sender, message: object): Uint8Array {
  return from === "client"
    ? writeClientMessage(message as ClientMessage)
    : writeServerMessage(message as ServerMessage);
}

describe("a frame", () => {
  it.each(frames)("is read: $from, $name", (vector) => {
    expect(read(vector.from, bytes(vector.hex))).toEqual(expected(vector));
  });

  it.each(frames)("is written: $from, $name", (vector) => {
    const written = expected(vector).map((message) => write(vector.from, message));
    const hex = written.length > 0 ? Buffer.from(joinMessages(written)).toString("hex") : "";
    // What is behind an unknown kind can be read by nobody, nor written.
    const known = vector.name.includes("unknown kind") ? hex : vector.hex;
    expect(hex).toBe(known);
  });

  it.each(malformed)("is refused: $from, $name", ({ from, hex }) => {
    expect(() => read(from, bytes(hex))).toThrow(ProtocolError);
  });

  it.each(malformed)("is refused within a larger buffer: $from, $name", ({ from, hex }) => {
    const buffer = bytes(`ffff${hex}0000000000000000`);
    const view = buffer.subarray(2, 2 + hex.length / 2);
    expect(() => read(from, view)).toThrow(ProtocolError);
  });

  it("ends where a message ends, and nowhere else", () => {
    for (const { from, hex, message } of frames.filter(({ hex }) => hex.length < 400)) {
      if (message === undefined) continue;
      for (let at = 0; at < hex.length; at += 2) {
        expect(() => read(from, bytes(hex.slice(0, at)))).toThrow(ProtocolError);
      }
      expect(() => read(from, bytes(`${hex}01`))).toThrow(ProtocolError);
    }
  });
});

it("whatever arrives is read or refused, and nothing else happens", () => {
  for (let seed = 0; seed < 20_000; seed += 1) {
    const random = createRandom(seed);
    const { from, hex } = frames[Math.floor(random() * frames.length)]!;
    const frame = bytes(hex.slice(0, 400));
    for (let change = 0; change < 3 && frame.length > 0; change += 1) {
      frame[Math.floor(random() * frame.length)] = Math.floor(random() * 256);
    }
    let messages: object[] = [];
    try {
      messages = read(from, frame);
    } catch (error) {
      expect(error, `seed ${seed}`).toBeInstanceOf(ProtocolError);
    }
    // What could be read means the same when it is written again.
    for (const message of messages) {
      expect(read(from, write(from, message)), `seed ${seed}`).toEqual([message]);
    }
  }
});

describe("presence", () => {
  const states = frames.find(({ name }) => name === "presence")!.message!["states"];

  it("says whom it is about", () => {
    expect(readStates(bytes(states as string))).toEqual([{ client: 300, clock: 1, here: true }]);
  });

  it.each(["", "01", "0101", "010101", "01010102ff", "0101010161", "0001"])(
    "is refused if it is not whole: %s",
    (hex) => {
      expect(() => readStates(bytes(hex))).toThrow();
    },
  );
});

it("a message is refused where it doesn't belong", () => {
  expect(() => writeClientMessage({ type: "Close", channel: 0 })).toThrow(ProtocolError);
  expect(() => writeServerMessage({ type: "Pong", channel: 1, number: 1 })).toThrow(
    ProtocolError,
  );
});
