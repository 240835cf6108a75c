/** A document's place on one connection: what was said there, and how far it is. */

import type { Token } from "./client.js";
import type { Link, Seat } from "./link.js";
import type { ClientDocumentMessage, ServerDocumentMessage } from "./wire.js";

/** Whose place it is. */
interface Owner {
  receive(channel: Channel, message: ServerDocumentMessage): void;
}

export class Channel implements Seat {
  readonly link: Link;
  readonly number: number;
  /** Whether Open was sent, and answered. */
  asked = false;
  opened = false;
  writable = false;
  synced = false;
  /** Whether pieces came after which Synced is to follow. */
  behind = false;
  epoch = "";
  /** What shows who we are, as far as the server knows. */
  token: Token | null = null;
  /** What the server had, if it lacks something and was not told yet. */
  lacking: Uint8Array | null = null;
  /** The octets that will have been received when all pieces have. */
  total = 0;
  /** Whom the server says to be here. */
  readonly seen = new Set<number>();
  attempt = 0;

  private readonly owner: Owner;
  private sequence = 0;

  constructor(owner: Owner, link: Link) {
    this.owner = owner;
    this.link = link;
    this.number = link.seat(this);
  }

  receive(message: ServerDocumentMessage): void {
    this.owner.receive(this, message);
  }

  /** Send an update, and return its number. */
  update(update: Uint8Array): number {
    this.sequence += 1;
    this.send({ type: "Update", sequence: this.sequence, update });
    return this.sequence;
  }

  send(message: Omitted<ClientDocumentMessage>): true {
    this.link.send({ ...message, channel: this.number } as ClientDocumentMessage);
    return true;
  }

  close(): void {
    if (this.asked) this.send({ type: "Close" });
    this.link.leave(this.number);
  }
}

/** Each of the messages without its channel. */
type Omitted<Message> = Message extends unknown ? Omit<Message, "channel"> : never;
