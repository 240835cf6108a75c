/**
 * The edits that the server has not confirmed, oldest first.
 *
 * Nothing is taken out but by the confirmation of the very message that held it.
 */

import * as Y from "yjs";

/** Edits in a row that are joined into one as they come, so that a day offline is few. */
const JOINED = 64;

/** The octets below which an edit is joined: whatever is sent has to fit into a frame. */
const SMALL = 512;

/** One edit or several, and the message that they went in. */
interface Edit {
  update: Uint8Array;
  /** The names of those in it, by which they are kept in the browser. */
  ids: string[];
  /** Its number on the present channel; 0 if it is to be sent. */
  sequence: number;
}

export class Edits {
  private edits: Edit[] = [];

  get count(): number {
    return this.edits.reduce((sum, { ids }) => sum + ids.length, 0);
  }

  /** Note an edit that is to be sent. */
  add(update: Uint8Array, id: string): void {
    this.edits.push({ update, ids: [id], sequence: 0 });
    const waiting = this.edits.slice(-JOINED);
    // In steps of equal size, as Yjs takes longer than linear to join many.
    if (waiting.length === JOINED && waiting.every(isSmall)) {
      this.edits.splice(-JOINED, JOINED, join(waiting));
    }
  }

  /** Note that the channel is gone: whatever is here is to be sent again. */
  lost(): void {
    for (const edit of this.edits) edit.sequence = 0;
  }

  /** Take what is to be sent, in as few updates of at most `limit` octets as possible. */
  waiting(limit: number): Edit[] {
    const waiting = this.edits.filter(({ sequence }) => sequence === 0);
    if (waiting.length < 2) return waiting;
    const joined = join(waiting);
    if (joined.update.length > limit) return waiting;
    this.edits = [...this.edits.filter(({ sequence }) => sequence !== 0), joined];
    return [joined];
  }

  /** Everything in one update; null if there is nothing. */
  joined(): Uint8Array | null {
    return this.edits.length > 0 ? join(this.edits).update : null;
  }

  /** Note that all up to a number is on disk, and return the names of what that was. */
  saved(sequence: number): string[] {
    const isSaved = (edit: Edit): boolean =>
      edit.sequence > 0 && edit.sequence <= sequence;
    const ids = this.edits.filter(isSaved).flatMap(({ ids }) => ids);
    this.edits = this.edits.filter((edit) => !isSaved(edit));
    return ids;
  }

  /** Note that one was not taken: no later number confirms it. */
  refused(sequence: number): void {
    for (const edit of this.edits) if (edit.sequence === sequence) edit.sequence = 0;
  }
}

function isSmall({ sequence, ids, update }: Edit): boolean {
  return sequence === 0 && ids.length < JOINED && update.length < SMALL;
}

function join(edits: Edit[]): Edit {
  if (edits.length === 1) return edits[0]!;
  return {
    update: Y.mergeUpdates(edits.map(({ update }) => update)),
    ids: edits.flatMap(({ ids }) => ids),
    sequence: 0,
  };
}
