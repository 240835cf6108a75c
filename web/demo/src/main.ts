/** The page: one document, everybody who has it open, and what is saved. */

import "./style.css";
import * as Y from "yjs";
import { connect } from "./connection";
import { chooseDocument, setUpShare, showDocument } from "./document";
import { find } from "./dom";
import { count, createEditor, makeReadOnly, scrollTo } from "./editor";
import { showPeople } from "./people";
import { watchSaved } from "./saved";
import { showStatus } from "./status";
import { setUpTheme } from "./theme";

/** Milliseconds after an edit before the words are counted. */
const COUNT_DELAY = 200;

setUpTheme();
const name = chooseDocument();
showDocument(name);
setUpShare();

const doc = new Y.Doc();
const text = doc.getText("text");
const status = showStatus(
  () => link.retry(),
  () => makeReadOnly(view),
);
const link = connect(name, doc, status.connection, status.denied);
const { provider } = link;
watchSaved(provider, status.waiting);

const view = createEditor(find("editor"), text, provider.awareness);
showPeople(provider.awareness, (client) => {
  scrollTo(view, client, text, provider.awareness);
});

let counting: ReturnType<typeof setTimeout> | undefined;
const showCount = (): void => {
  counting = undefined;
  const { words, characters } = count(text.toString());
  find("words").textContent = `${words.toLocaleString()} ${words === 1 ? "word" : "words"}`;
  find("characters").textContent = `${characters.toLocaleString()} characters`;
};
const showHint = (): void => {
  document.body.classList.toggle("empty", text.length === 0);
};
text.observe(() => {
  counting ??= setTimeout(showCount, COUNT_DELAY);
  showHint();
});
showCount();
showHint();
view.focus();
