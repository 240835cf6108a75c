/** Where the others are: their carets, with names, and what they have selected. */

import { type Range, RangeSet, StateEffect } from "@codemirror/state";
import {
  Decoration,
  type DecorationSet,
  type EditorView,
  ViewPlugin,
  type ViewUpdate,
  WidgetType,
} from "@codemirror/view";
import type { Awareness } from "y-protocols/awareness";
import * as Y from "yjs";
import { oncePerFrame } from "./dom";
import { isRecord, type Person, readPerson, readSelection } from "./presence";

/** Says that somebody moved, came or went. */
const moved = StateEffect.define<null>();

/** A caret with a flag; `moves` makes a new one for each move, which shows the flag. */
class Caret extends WidgetType {
  constructor(
    readonly person: Person,
    readonly moves: number,
  ) {
    super();
  }

  override eq({ person, moves }: Caret): boolean {
    return (
      moves === this.moves &&
      person.client === this.person.client &&
      person.name === this.person.name &&
      person.color === this.person.color
    );
  }

  toDOM(): HTMLElement {
    const caret = document.createElement("span");
    caret.className = "caret";
    caret.dataset["testid"] = "cursor";
    // Shown by the style sheet, so that it isn't part of the document's text.
    caret.dataset["name"] = this.person.name;
    caret.style.setProperty("--person", this.person.color);
    caret.ariaHidden = "true";
    return caret;
  }

  override ignoreEvent(): boolean {
    return true;
  }
}

/** Publish our own selection and draw those of the others. */
export function cursors(text: Y.Text, awareness: Awareness) {
  class Cursors {
    decorations: DecorationSet = RangeSet.empty;
    /** Whether somebody is where our text doesn't reach yet. */
    private ahead = false;
    /** Each client's last position as it was sent, and how often it has changed. */
    private readonly seen = new Map<number, { cursor: string; moves: number }>();

    private readonly listener = (changes: Record<string, number[]>): void => {
      const clients = Object.values(changes).flat();
      if (clients.some((client) => client !== awareness.clientID)) this.redraw();
    };

    private readonly redraw = oncePerFrame(() => {
      this.view.dispatch({ effects: moved.of(null) });
    });

    constructor(private readonly view: EditorView) {
      awareness.on("change", this.listener);
    }

    destroy(): void {
      awareness.off("change", this.listener);
    }

    update(update: ViewUpdate): void {
      if (update.selectionSet || update.docChanged || update.focusChanged) {
        this.publish(update.view);
      }
      const effects = update.transactions.flatMap((transaction) => transaction.effects);
      if (effects.some((effect) => effect.is(moved))) this.draw(update.view);
      else if (update.docChanged) {
        this.decorations = this.decorations.map(update.changes);
        if (this.ahead) this.redraw();
      }
      if (update.docChanged || update.geometryChanged || effects.length > 0) {
        update.view.requestMeasure(turnFlags);
      }
    }

    private publish(view: EditorView): void {
      const { anchor, head } = view.state.selection.main;
      if (!view.hasFocus || awareness.getLocalState() === null) return;
      const cursor = {
        anchor: Y.relativePositionToJSON(
          Y.createRelativePositionFromTypeIndex(text, anchor),
        ),
        head: Y.relativePositionToJSON(
          Y.createRelativePositionFromTypeIndex(text, head),
        ),
      };
      const current: unknown = awareness.getLocalState()?.["cursor"];
      if (JSON.stringify(cursor) === JSON.stringify(current)) return;
      awareness.setLocalStateField("cursor", cursor);
    }

    private draw(view: EditorView): void {
      const ranges: Range<Decoration>[] = [];
      this.ahead = false;
      for (const [client, state] of awareness.getStates()) {
        if (client === awareness.clientID) continue;
        const selection = readSelection(state, text);
        if (selection === null) {
          this.ahead ||= isRecord(state["cursor"]);
          continue;
        }
        const user: unknown = state["user"];
        const person = readPerson(client, isRecord(user) ? user : {});
        const length = view.state.doc.length;
        const head = Math.min(selection.head, length);
        const anchor = Math.min(selection.anchor, length);
        if (anchor !== head) {
          const mark = Decoration.mark({
            class: "selected",
            attributes: { style: `--person: ${person.color}` },
          });
          ranges.push(mark.range(Math.min(anchor, head), Math.max(anchor, head)));
        }
        const widget = new Caret(person, this.moves(client, state["cursor"]));
        // Our own caret stays outside of what they have selected.
        ranges.push(Decoration.widget({ widget, side: head > anchor ? -1 : 1 }).range(head));
      }
      this.decorations = Decoration.set(ranges, true);
      for (const client of this.seen.keys()) {
        if (!awareness.getStates().has(client)) this.seen.delete(client);
      }
    }

    private moves(client: number, position: unknown): number {
      const cursor = JSON.stringify(position);
      const seen = this.seen.get(client);
      if (seen?.cursor === cursor) return seen.moves;
      const moves = (seen?.moves ?? 0) + 1;
      this.seen.set(client, { cursor, moves });
      return moves;
    }
  }

  return ViewPlugin.fromClass(Cursors, { decorations: ({ decorations }) => decorations });
}

/** Turn the flags near the right edge to the left, where there is room for them. */
const turnFlags = {
  read(view: EditorView) {
    const edge = view.scrollDOM.getBoundingClientRect().right;
    return [...view.contentDOM.querySelectorAll<HTMLElement>(".caret")].map((caret) => ({
      caret,
      near: edge - caret.getBoundingClientRect().right < 160,
    }));
  },
  write(measured: { caret: HTMLElement; near: boolean }[]) {
    for (const { caret, near } of measured) caret.classList.toggle("turned", near);
  },
};
