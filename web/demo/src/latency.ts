/** How long the way to the server and back takes. */

import type { Connection } from "./connection";

/** Milliseconds between two measurements. */
const INTERVAL = 5_000;

/** Measure now and then while somebody looks; `null` says that it isn't known. */
export function watchLatency(
  { client, document: shared }: Connection,
  changed: (milliseconds: number | null) => void,
): void {
  let measuring = false;

  const measure = async (): Promise<void> => {
    // While a document arrives, the answer would stand in line behind it.
    if (measuring || !shared.synced || document.visibilityState === "hidden") return;
    measuring = true;
    changed(await client.ping());
    measuring = false;
  };

  shared.on("synced", (synced) => {
    if (synced) void measure();
    else changed(null);
  });
  document.addEventListener("visibilitychange", measure);
  setInterval(measure, INTERVAL);
}

/** A latency as people read it. */
export function describeLatency(milliseconds: number): string {
  if (milliseconds >= 1_000) return `${(milliseconds / 1_000).toFixed(1)} s`;
  return `${Math.max(1, Math.round(milliseconds))} ms`;
}
