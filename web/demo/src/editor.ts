/** The editor: a text that looks like what its Markdown means. */

import { defaultKeymap } from "@codemirror/commands";
import {
  deleteMarkupBackward,
  insertNewlineContinueMarkup,
  markdownLanguage,
} from "@codemirror/lang-markdown";
import { HighlightStyle, syntaxHighlighting } from "@codemirror/language";
import { Compartment, EditorState } from "@codemirror/state";
import { EditorView, keymap } from "@codemirror/view";
import { tags } from "@lezer/highlight";
import { yCollab, yUndoManagerKeymap } from "y-codemirror.next";
import type { Awareness } from "y-protocols/awareness";
import * as Y from "yjs";
import { cursors } from "./cursors";
import { announce } from "./dom";
import { readSelection } from "./presence";

/** How each kind of Markdown looks; the classes are in `style.css`. */
const looks = HighlightStyle.define([
  { tag: tags.heading1, class: "md-heading md-heading-1" },
  { tag: tags.heading2, class: "md-heading md-heading-2" },
  { tag: tags.heading, class: "md-heading" },
  { tag: tags.strong, class: "md-strong" },
  { tag: tags.emphasis, class: "md-emphasis" },
  { tag: tags.strikethrough, class: "md-struck" },
  { tag: tags.monospace, class: "md-code" },
  { tag: tags.quote, class: "md-quote" },
  { tag: [tags.link, tags.url], class: "md-link" },
  { tag: [tags.processingInstruction, tags.contentSeparator], class: "md-mark" },
]);

/** Whether the text can be changed. */
const access = new Compartment();

/** Show a shared text in an element, for editing. */
export function createEditor(
  parent: HTMLElement,
  text: Y.Text,
  awareness: Awareness,
): EditorView {
  return new EditorView({
    parent,
    state: EditorState.create({
      doc: text.toString(),
      extensions: [
        keymap.of([
          ...yUndoManagerKeymap,
          { key: "Mod-s", run: explainSaving, preventDefault: true },
          { key: "Enter", run: insertNewlineContinueMarkup },
          { key: "Backspace", run: deleteMarkupBackward },
          ...defaultKeymap,
        ]),
        markdownLanguage,
        syntaxHighlighting(looks),
        access.of([]),
        EditorView.lineWrapping,
        EditorView.contentAttributes.of({
          "aria-label": "Text of the document",
          "data-testid": "editor",
          autocapitalize: "sentences",
          autocorrect: "on",
          spellcheck: "true",
        }),
        // Without an awareness it leaves the cursors to us: its own would put
        // colours from strangers into style attributes as they come.
        yCollab(text, null, { undoManager: new Y.UndoManager(text) }),
        cursors(text, awareness),
      ],
    }),
  });
}

/** Keep people from writing what the server would not take, or let them write again. */
export function lock(view: EditorView, locked: boolean): void {
  const attributes = EditorView.contentAttributes.of({ "aria-readonly": "true" });
  const extension = locked ? [EditorState.readOnly.of(true), attributes] : [];
  view.dispatch({ effects: access.reconfigure(extension) });
}

/** Scroll to where somebody is, if they are anywhere. */
export function scrollTo(
  view: EditorView,
  client: number,
  text: Y.Text,
  awareness: Awareness,
): void {
  const selection = readSelection(awareness.getStates().get(client), text);
  if (selection === null) return;
  const head = Math.min(selection.head, view.state.doc.length);
  view.dispatch({ effects: EditorView.scrollIntoView(head, { y: "center" }) });
}

/** Answer those whose fingers save out of habit. */
function explainSaving(): boolean {
  announce("Changes are saved as you type.");
  return true;
}

/** The longest text whose words are found with care, in UTF-16 units. */
const CAREFUL = 100_000;

/** Count words and characters as a reader would; in a long text, about so. */
export function count(text: string): { words: number; characters: number } {
  if (text.length > CAREFUL) {
    return { words: text.match(/\S+/g)?.length ?? 0, characters: text.length };
  }
  let words = 0;
  for (const { isWordLike } of segmenter.segment(text)) {
    if (isWordLike) words += 1;
  }
  return { words, characters: [...text].length };
}

const segmenter = new Intl.Segmenter([], { granularity: "word" });
