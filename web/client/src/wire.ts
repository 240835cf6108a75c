/**
 * The messages of the subprotocol `collab.v1`, read strictly.
 *
 * Two tables say what there is, as those of docs/protocol.md do; a message's kind is
 * its place in its table. Both directions are here, since a tab that holds the
 * connection for others is a server to them.
 */

import * as encoding from "lib0/encoding";

/** The types of the grammar. `data` is a view of the frame, and not a copy. */
interface Types {
  uint: number;
  text: string;
  data: Uint8Array;
  flag: boolean;
}

type Table = readonly (readonly [string, Readonly<Record<string, keyof Types>>])[];

interface Tables {
  readonly connection: Table;
  readonly document: Table;
}

/** What a client says. */
const CLIENT = {
  connection: [
    ["Hello", { client: "text" }],
    ["Ping", { number: "uint" }],
    ["Identity", { key: "data" }],
  ],
  document: [
    [
      "Open",
      { name: "text", token: "text", vector: "data", epoch: "text", position: "uint" },
    ],
    ["Close", {}],
    ["Update", { sequence: "uint", update: "data" }],
    ["Presence", { states: "data" }],
    ["Message", { user: "text", payload: "data" }],
    ["Token", { token: "text" }],
    [
      "Resume",
      {
        name: "text",
        token: "text",
        vector: "data",
        epoch: "text",
        position: "uint",
        known: "data",
      },
    ],
  ],
} as const satisfies Tables;

/** What a server says. */
const SERVER = {
  connection: [
    ["Welcome", { version: "uint", connection: "text", heartbeat: "uint", size: "uint" }],
    ["Pong", { number: "uint" }],
    ["Reconnect", { after: "uint", window: "uint" }],
    ["Ended", { code: "uint", reason: "text" }],
  ],
  document: [
    [
      "Opened",
      {
        writable: "flag",
        epoch: "text",
        position: "uint",
        size: "uint",
        vector: "data",
      },
    ],
    ["Closed", { code: "uint", reason: "text" }],
    ["Update", { position: "uint", update: "data" }],
    ["Presence", { states: "data" }],
    ["Message", { user: "text", payload: "data" }],
    ["TokenWanted", { seconds: "uint" }],
    ["Piece", { update: "data" }],
    ["Synced", { position: "uint" }],
    ["Saved", { sequence: "uint", position: "uint" }],
    ["Refused", { sequence: "uint", reason: "text" }],
    ["Access", { writable: "flag" }],
    ["Question", { vector: "data" }],
  ],
} as const satisfies Tables;

/** One message of a table, whichever it is. */
type Message<Rows extends Table> = {
  [Row in keyof Rows]: { type: Rows[Row][0]; channel: number } & {
    -readonly [Field in keyof Rows[Row][1]]: Types[Rows[Row][1][Field]];
  };
}[number];

/** What a client says of its connection; `channel` is 0. */
export type ClientConnectionMessage = Message<typeof CLIENT.connection>;

/** What a client says of a document. */
export type ClientDocumentMessage = Message<typeof CLIENT.document>;

export type ClientMessage = ClientConnectionMessage | ClientDocumentMessage;

/** What a server says of the connection; `channel` is 0. */
export type ServerConnectionMessage = Message<typeof SERVER.connection>;

/** What a server says of a document. */
export type ServerDocumentMessage = Message<typeof SERVER.document>;

export type ServerMessage = ServerConnectionMessage | ServerDocumentMessage;

/** Thrown when what was received is not of the protocol. */
export class ProtocolError extends Error {
  override name = "ProtocolError";
}

/** Read all messages of a client's frame, up to one of an unknown kind. */
export function readClientFrame(frame: Uint8Array): ClientMessage[] {
  return readFrame(CLIENT, frame) as ClientMessage[];
}

/** Read all messages of a server's frame, up to one of an unknown kind. */
export function readServerFrame(frame: Uint8Array): ServerMessage[] {
  return readFrame(SERVER, frame) as ServerMessage[];
}

/** Write one message of a client; a frame is one or several, one behind the other. */
export function writeClientMessage(message: ClientMessage): Uint8Array {
  return writeMessage(CLIENT, message);
}

/** Write one message of a server. */
export function writeServerMessage(message: ServerMessage): Uint8Array {
  return writeMessage(SERVER, message);
}

/** Join messages into a frame. */
export function joinMessages(messages: readonly Uint8Array[]): Uint8Array {
  if (messages.length === 1) return messages[0]!;
  const size = messages.reduce((sum, message) => sum + message.length, 0);
  const frame = new Uint8Array(size);
  let at = 0;
  for (const message of messages) {
    frame.set(message, at);
    at += message.length;
  }
  return frame;
}

/** What a presence update of y-protocols says of one client. */
export interface ClientState {
  client: number;
  clock: number;
  /** Whether they are here, or have left. */
  here: boolean;
}

/** Read whom a presence update is about, and check that it is whole. */
export function readStates(states: Uint8Array): ClientState[] {
  const reader = new Reader(states);
  const clients = [];
  for (let count = reader.uint(); count > 0; count -= 1) {
    const client = reader.uint();
    const clock = reader.uint();
    clients.push({ client, clock, here: JSON.parse(reader.text()) !== null });
  }
  if (!reader.ended) throw new ProtocolError("octets after the presence");
  return clients;
}

function readFrame(tables: Tables, frame: Uint8Array): object[] {
  const reader = new Reader(frame);
  const messages: object[] = [];
  do {
    const channel = reader.uint();
    const kind = reader.uint();
    const row = (channel === 0 ? tables.connection : tables.document)[kind];
    if (row === undefined) break;
    const message: Record<string, unknown> = { type: row[0], channel };
    for (const [field, type] of Object.entries(row[1])) message[field] = reader[type]();
    messages.push(message);
  } while (!reader.ended);
  return messages;
}

function writeMessage(tables: Tables, message: ClientMessage | ServerMessage): Uint8Array {
  const table = message.channel === 0 ? tables.connection : tables.document;
  const kind = table.findIndex(([type]) => type === message.type);
  if (kind < 0) throw new ProtocolError(`no ${message.type} on ${message.channel}`);
  const values = message as unknown as Record<string, never>;
  const encoder = encoding.createEncoder();
  encoding.writeVarUint(encoder, message.channel);
  encoding.writeVarUint(encoder, kind);
  for (const [field, type] of Object.entries(table[kind]![1])) {
    write[type](encoder, values[field]!);
  }
  return encoding.toUint8Array(encoder);
}

const write: { [Type in keyof Types]: (to: encoding.Encoder, value: Types[Type]) => void } =
  {
    uint: encoding.writeVarUint,
    text: encoding.writeVarString,
    data: encoding.writeVarUint8Array,
    flag: (encoder, value) => encoding.writeUint8(encoder, value ? 1 : 0),
  };

/**
 * Takes a frame apart. lib0's decoder doesn't mind a length that is more than what
 * is there, and reads on in what lies behind the frame.
 */
class Reader {
  private at = 0;
  private readonly frame: Uint8Array;

  constructor(frame: Uint8Array) {
    this.frame = frame;
  }

  get ended(): boolean {
    return this.at === this.frame.length;
  }

  uint(): number {
    let number = 0;
    for (let scale = 1; scale <= 2 ** 49; scale *= 128) {
      const octet = this.octet();
      number += (octet & 127) * scale;
      if (octet < 128) {
        if (number > Number.MAX_SAFE_INTEGER) break;
        return number;
      }
    }
    throw new ProtocolError("integer of more than 53 bits");
  }

  data(): Uint8Array {
    const length = this.uint();
    if (length > this.frame.length - this.at) {
      throw new ProtocolError("length exceeds the frame");
    }
    return this.frame.subarray(this.at, (this.at += length));
  }

  text(): string {
    try {
      return utf8.decode(this.data());
    } catch (error) {
      if (error instanceof ProtocolError) throw error;
      throw new ProtocolError("text is not UTF-8");
    }
  }

  flag(): boolean {
    const octet = this.octet();
    if (octet > 1) throw new ProtocolError("flag is neither 0 nor 1");
    return octet === 1;
  }

  private octet(): number {
    const octet = this.frame[this.at++];
    if (octet === undefined) throw new ProtocolError("frame ends within a message");
    return octet;
  }
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
