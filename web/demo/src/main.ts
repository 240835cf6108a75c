/** The page: one document, everybody who has it open, and what is saved. */

import "./style.css";
import { connect } from "./connection";
import { chooseDocument, setUpShare, showDocument } from "./document";
import { find } from "./dom";
import { count, createEditor, lock, scrollTo } from "./editor";
import { showPeople } from "./people";
import { showStatus } from "./status";
import { setUpTheme } from "./theme";

/** Milliseconds after an edit before the words are counted. */
const COUNT_DELAY = 200;

setUpTheme();
const name = chooseDocument();
showDocument(name);
setUpShare();

const connection = connect(name);
const { doc, awareness } = connection.document;
const text = doc.getText("text");
const view = createEditor(find("editor"), text, awareness);
showStatus(connection, (locked) => lock(view, locked));
showPeople(awareness, (client) => scrollTo(view, client, text, awareness));

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
