/** Which transport is tried next, from how attempts ended. */

import { UNFIT, type Transport } from "./transport.js";

/** Attempts that must fail in a row until one that has worked is doubted. */
const DOUBT = 3;

/** Milliseconds for the first one of several to get an answer. */
export const SOON = 5_000;

/** Milliseconds for one over HTTP, which finds out by itself what is wrong. */
export const LATE = 30_000;

/** Milliseconds until what is preferred is tried again, about: at first, and at most. */
export const PROBE = 60_000;
const RARELY = 600_000;

/** The close code for what isn't there, with which HTTP's 404 is told. */
const MISSING = 4404;

/** The close codes for connections that nobody at the other end has closed. */
const UNSPOKEN = [0, 1002, 1005, 1006, 1015, UNFIT];

export class Choice {
  private readonly order: readonly Transport[];
  private at = 0;
  /** Those of which it is known that they can't work here. */
  private readonly unfit = new Set<Transport>();
  /** Whether another one has worked since, so that it was not the network as a whole. */
  private proven = false;
  /** Whether the first one has worked since another one was needed. */
  private worked = false;
  private failures = 0;
  private probes = 0;

  constructor(order: readonly Transport[]) {
    if (order.length === 0) throw new RangeError("give at least one transport");
    this.order = order;
  }

  get transport(): Transport {
    return this.order[this.at]!;
  }

  /** The one that is to be tried beside the one that works; null if none is better. */
  get better(): Transport | null {
    const first = this.order[0]!;
    return first.isHttp === this.transport.isHttp ? null : first;
  }

  /** Milliseconds that an attempt has until the server must have welcomed us. */
  patience(transport: Transport): number | undefined {
    if (transport.isHttp) return LATE;
    return this.order.length > 1 ? SOON : undefined;
  }

  /** Note that one has worked. */
  welcomed(transport: Transport): void {
    this.at = this.order.indexOf(transport);
    this.worked = this.at === 0;
    this.failures = 0;
    this.proven = true;
    if (this.worked) this.unfit.clear();
    if (this.better === null) this.probes = 0;
  }

  /**
   * Note that an attempt has failed before it worked.
   *
   * @returns Whether the next one is to be made at once, as it goes another way.
   */
  failed(code: number): boolean {
    if (!this.isEvidence(code)) return false;
    if (code === UNFIT) {
      this.unfit.add(this.transport);
      this.proven = false;
    }
    this.failures += 1;
    // A server that restarts is no reason to go around it.
    if (this.at === 0 && this.worked && this.failures < DOUBT) return false;
    const { isHttp } = this.transport;
    const next = this.order.findIndex(
      (one, at) =>
        at > this.at && !this.unfit.has(one) && (code === UNFIT || one.isHttp !== isHttp),
    );
    this.failures = 0;
    this.at = Math.max(next, 0);
    if (next < 0 && !this.proven) this.unfit.clear();
    return next > 0;
  }

  /** Whether a code says that another transport may do better, which no server has said. */
  isEvidence(code: number): boolean {
    if (this.order.length === 1) return false;
    return UNSPOKEN.includes(code) || (code === MISSING && this.transport.isHttp === true);
  }

  /** Note that the network may be another one. */
  renew(): void {
    this.unfit.clear();
    this.probes = 0;
  }

  /** Milliseconds until what is preferred is tried again. */
  probeAfter(first: number, random: () => number): number {
    const wait = Math.min(first * 2 ** this.probes, RARELY);
    this.probes += 1;
    return wait * (0.5 + random());
  }
}
