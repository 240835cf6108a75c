/** Who we are to the others. */

import { PALETTE, readColor } from "./colors";
import { inventPersonName, PERSON_NAME, randomBelow, readPersonName } from "./names";
import { isRecord } from "./presence";
import { recall, remember } from "./storage";

/** What others see of us. */
export interface Me {
  name: string;
  color: string;
}

/** Who we said we are, or who we were in this tab, or somebody new. */
export function recallMe(): Me {
  const known = recall("me") ?? recall("me", "sessionStorage");
  if (isRecord(known) && typeof known["name"] === "string") {
    return { name: readPersonName(known["name"]), color: readColor(known["color"]) };
  }
  const me = { name: inventPersonName(), color: randomColor([]) };
  // Only for this tab: in the next one we are the person to try this page with.
  remember("me", me, "sessionStorage");
  return me;
}

/** Whether somebody chose this name and colour, rather than we for them. */
export function isChosen(): boolean {
  return recall("me") !== null;
}

/** Remember a choice in all tabs. */
export function rememberMe(me: Me): void {
  remember("me", me);
}

/** A colour that is not taken, if there is one. */
export function randomColor(taken: readonly string[]): string {
  const free = PALETTE.filter(({ color }) => !taken.includes(color));
  const choice = free.length > 0 ? free : PALETTE;
  return (choice[randomBelow(choice.length)] as Me).color;
}

/** What we tell the others: y-codemirror's own names for these things. */
export function asUser({ name, color }: Me): Record<string, string> {
  return { name: name.slice(0, PERSON_NAME), color, colorLight: `${color}33` };
}
