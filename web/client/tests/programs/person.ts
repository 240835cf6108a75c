/**
 * Somebody who edits a document, for tests in Python: in Node (`people.ts`) or on a page
 * (`../page/page.ts`).
 *
 * What they type are words, `<person-number>`, between words of others. They note when
 * they were without service, when they tried to connect, and whether `saved` lied, or
 * what they were told was at odds with itself.
 */

import {
  CollabClient,
  CollabDocument,
  type ClientOptions,
  type DocumentOptions,
} from "../../src/index.js";
import type { Carrier, Transport } from "../../src/transport.js";
import { read, textOf } from "../plain.js";

export interface Life {
  /** Nobody else has it. */
  id: number;
  /** Of the document. */
  name: string;
  client: ClientOptions;
  /** What may carry the frames, in the order in which to try it. */
  transports: readonly Transport[];
  document?: DocumentOptions;
  random: () => number;
  /** The words in the server's database at this moment; null if that can't be known. */
  kept: (name: string) => Set<string> | null;
}

export class Person {
  readonly client: CollabClient;
  readonly document: CollabDocument;
  typed = 0;
  acked = 0;
  /** What was not in the database although it was said to be saved. */
  readonly lies: string[] = [];
  /** What was said and can't be so. */
  readonly oddities: string[] = [];
  /** From when to when it was not synced, after the first time that it was. */
  readonly gaps: [from: number, to: number][] = [];
  /** When it tried to connect, and whether it was synced meanwhile. */
  readonly attempts: [at: number, synced: boolean][] = [];
  readonly refusals: string[] = [];
  /** How the document stood, one after the other. */
  readonly states: string[] = [];
  private readonly id: number;
  private readonly random: () => number;
  private readonly kept: Life["kept"];
  private lost: number | null = null;
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor({ id, name, client, transports, document, random, kept }: Life) {
    this.id = id;
    this.random = random;
    this.kept = kept;
    const transport = transports.map((one) => this.watch(one));
    this.client = new CollabClient({ ...client, connect: false, transport });
    this.document = new CollabDocument(this.client, name, document);
    this.document.on("saved", (saved) => {
      this.look();
      if (saved) this.wasSaved();
    });
    this.document.on("synced", (synced) => {
      this.look();
      if (!synced) this.lost = Date.now();
      else if (this.lost !== null) {
        this.gaps.push([this.lost, Date.now()]);
        this.lost = null;
      }
    });
    this.document.on("status", (status) => {
      this.states.push(status);
      this.look();
    });
    this.document.on("refused", (reason) => this.refusals.push(reason));
  }

  type(): void {
    const text = textOf(this.document.doc);
    const content = text.toString();
    // Between words, so that each stays whole.
    const at = content.lastIndexOf(">", Math.floor(this.random() * content.length)) + 1;
    this.typed += 1;
    text.insert(at, `<${this.id}-${this.typed}>`);
  }

  pause(pause: number): void {
    clearTimeout(this.timer);
    if (pause === 0) return;
    this.timer = setTimeout(
      () => {
        this.type();
        this.pause(pause);
      },
      pause * (0.5 + this.random()),
    );
  }

  report(): object {
    const { document, client, typed, acked, lies, oddities, gaps, attempts, refusals } = this;
    const { status, saved, synced, error, name, access } = document;
    const text = read(document);
    const { transportName } = client;
    const { pendingStructs, pendingDs } = document.doc.store;
    const pending = pendingStructs !== null || pendingDs !== null;
    const { id, lost, states } = this;
    const outcome = { lies, oddities, gaps, attempts, refusals, lost, pending, transportName };
    const stand = { status, saved, synced, error, access, states };
    return { id, name, text, typed, acked, ...stand, ...outcome };
  }

  leave(): void {
    clearTimeout(this.timer);
    this.client.destroy();
  }

  private wasSaved(): void {
    this.acked = this.typed;
    const kept = this.kept(this.document.name);
    if (kept === null) return;
    for (let number = 1; number <= this.typed; number += 1) {
      if (!kept.has(`<${this.id}-${number}>`)) this.lies.push(`<${this.id}-${number}>`);
    }
  }

  /** Note what can't be so. */
  private look(): void {
    const { synced, saved, status, unsaved } = this.document;
    if (synced && status !== "connected") this.oddities.push(`synced while ${status}`);
    if (saved && unsaved > 0) this.oddities.push(`saved but for ${unsaved}`);
  }

  private watch(transport: Transport): Transport {
    return {
      ...transport,
      open: (url, handlers): Carrier => {
        this.attempts.push([Date.now(), this.document.synced]);
        return transport.open(url, handlers);
      },
    };
  }
}
