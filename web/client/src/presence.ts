/** Who is here: y-protocols' awareness, kept the same as the server's. */

import {
  applyAwarenessUpdate,
  encodeAwarenessUpdate,
  removeAwarenessStates,
  type Awareness,
} from "y-protocols/awareness";
import { attempt } from "./telling.js";
import { ProtocolError, readStates } from "./wire.js";

/** Milliseconds that others stay visible while the connection is lost. */
export const GRACE = 5_000;

export class Presence {
  private readonly awareness: Awareness;
  private readonly send: (states: Uint8Array) => void;
  private timer: ReturnType<typeof setTimeout> | undefined;

  /** Hand our state to `send` whenever it changes. */
  constructor(awareness: Awareness, send: (states: Uint8Array) => void) {
    this.awareness = awareness;
    this.send = send;
    awareness.on("update", this.changed);
  }

  /** Announce ourselves anew: others take a state only with a newer clock. */
  renew(): void {
    const state = this.awareness.getLocalState();
    if (state !== null) attempt(() => this.awareness.setLocalState(state));
  }

  /** Take what the server says, and return whom it is about. */
  hear(states: Uint8Array): number[] {
    let heard;
    try {
      heard = readStates(states);
    } catch {
      throw new ProtocolError("presence is malformed");
    }
    const { clientID } = this.awareness;
    const forgotten = heard.some(({ client, here }) => client === clientID && !here);
    // We weren't heard for a while; what is said of nobody else is not for the application.
    if (!forgotten || heard.length > 1) {
      attempt(() => applyAwarenessUpdate(this.awareness, states, this));
    }
    if (forgotten) this.renew();
    return heard.map(({ client }) => client);
  }

  /** Note that others can't be heard any more; they fade after {@link GRACE}. */
  lost(): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.forget(new Set()), GRACE);
  }

  /** Note who else is here: nobody but these. */
  found(here: ReadonlySet<number>): void {
    clearTimeout(this.timer);
    this.forget(here);
  }

  /** Leave, and see nobody any more. */
  destroy(): void {
    const { awareness } = this;
    attempt(() => removeAwarenessStates(awareness, [awareness.clientID], "local"));
    this.found(new Set());
    awareness.off("update", this.changed);
  }

  private forget(here: ReadonlySet<number>): void {
    const { awareness } = this;
    const others = [...awareness.getStates().keys()].filter(
      (client) => client !== awareness.clientID && !here.has(client),
    );
    attempt(() => removeAwarenessStates(awareness, others, this));
    // They may come back with the very clock that they had.
    for (const client of others) awareness.meta.delete(client);
  }

  private readonly changed = (
    { added, updated, removed }: Record<"added" | "updated" | "removed", number[]>,
    origin: unknown,
  ): void => {
    // Not what we heard of others, nor what a timeout says of them.
    const { clientID } = this.awareness;
    if (origin === this || ![...added, ...updated, ...removed].includes(clientID)) return;
    this.send(encodeAwarenessUpdate(this.awareness, [clientID]));
  };
}
