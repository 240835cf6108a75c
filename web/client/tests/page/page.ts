/** Opens `?url=...&name=...`, with `&keep` in IndexedDB and with `&tabs` for all tabs. */

import { CollabClient, CollabDocument } from "../../src/index.js";
import { indexedDb } from "../../src/persistence.js";
import { createTabs } from "../../src/tabs.js";

const query = new URLSearchParams(location.search);

const client = new CollabClient({
  url: query.get("url")!,
  ...(query.has("tabs") ? { tabs: createTabs() } : {}),
});
const collab = new CollabDocument(
  client,
  query.get("name")!,
  query.has("keep") ? { persistence: indexedDb() } : {},
);
const text = collab.doc.getText("text");

Object.assign(window, {
  client,
  collab,
  read: () => text.toString(),
  type: (words: string) => text.insert(text.length, words),
});
