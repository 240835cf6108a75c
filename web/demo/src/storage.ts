/** What this browser remembers; where storage is refused, nothing, and no error. */

/** For how long: as long as the tab is open, or until somebody clears it. */
type Keeper = "sessionStorage" | "localStorage";

/** Read what was remembered under a key, in this tab or else in this browser. */
export function recall(key: string, keeper: Keeper = "localStorage"): unknown {
  try {
    return JSON.parse(window[keeper].getItem(`collab.${key}`) ?? "null");
  } catch {
    return null;
  }
}

/** Remember a value under a key. */
export function remember(
  key: string,
  value: unknown,
  keeper: Keeper = "localStorage",
): void {
  try {
    window[keeper].setItem(`collab.${key}`, JSON.stringify(value));
  } catch {
    // Private browsing, or a full disk: the page works without.
  }
}
