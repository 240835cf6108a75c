/** When to come back: what close codes say, and how long to wait. */

/** The shortest wait before another attempt, in milliseconds. */
export const FLOOR = 500;

/** The longest, in milliseconds. */
export const CAP = 20_000;

/** Why a connection or a document is not open, for people and for code. */
export interface CollabError {
  /** A close code of docs/protocol.md, or 0 if nothing was said: no network, no token. */
  code: number;
  reason: string;
  /** Whether another attempt is pointless, so that none is made. */
  final: boolean;
}

/** What a close code says: it is done, or can't succeed, or may be tried again. */
export function readCode(code: number): "done" | "never" | "retry" {
  if (code === 1000 || code === 1001) return "done";
  return code >= 4400 && code <= 4499 ? "never" : "retry";
}

/**
 * Milliseconds to wait before an attempt, which are counted from 1.
 *
 * Random over the whole range, so that those whom one event sent away don't come back
 * together.
 */
export function backOff(attempt: number, random: () => number): number {
  const most = Math.min(CAP, FLOOR * 2 ** attempt);
  return FLOOR + random() * (most - FLOOR);
}
