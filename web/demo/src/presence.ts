/** What others say about themselves, checked before it reaches the page. */

import type { Awareness } from "y-protocols/awareness";
import * as Y from "yjs";
import { readColor } from "./colors";
import { readPersonName } from "./names";

/** Somebody who has the document open. */
export interface Person {
  client: number;
  name: string;
  color: string;
}

/** Where somebody is in the text, in UTF-16 units. */
export interface Selection {
  anchor: number;
  head: number;
}

/** Everybody who is here and has said so: ourselves first, then in a steady order. */
export function readPeople(awareness: Awareness): Person[] {
  const people: Person[] = [];
  for (const [client, state] of awareness.getStates()) {
    const user: unknown = state["user"];
    if (isRecord(user)) people.push(readPerson(client, user));
  }
  const rank = ({ client }: Person): number =>
    client === awareness.clientID ? -1 : client;
  return people.sort((left, right) => rank(left) - rank(right));
}

/** A person as others may see them, whatever was sent. */
export function readPerson(client: number, user: Record<string, unknown>): Person {
  return {
    client,
    name: readPersonName(user["name"]),
    color: readColor(user["color"]),
  };
}

/** Where a state says that its owner is in the text; null if it doesn't, or can't be. */
export function readSelection(state: unknown, text: Y.Text): Selection | null {
  if (!isRecord(state) || !isRecord(state["cursor"])) return null;
  const anchor = readPosition(state["cursor"]["anchor"], text);
  const head = readPosition(state["cursor"]["head"], text);
  return anchor === null || head === null ? null : { anchor, head };
}

function readPosition(value: unknown, text: Y.Text): number | null {
  if (!isRecord(value) || text.doc === null) return null;
  try {
    const relative = Y.createRelativePositionFromJSON(value);
    const position = Y.createAbsolutePositionFromRelativePosition(relative, text.doc);
    if (position?.type !== text) return null;
    return Math.min(Math.max(position.index, 0), text.length);
  } catch {
    // It came from somebody else and may be anything.
    return null;
  }
}

/** Whether a value is an object with properties. */
export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}
