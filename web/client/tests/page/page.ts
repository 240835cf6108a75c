/**
 * Opens `?url=...&name=...`, with `&keep` in IndexedDB, with `&tabs` for all tabs, by
 * `&transport=...` alone, and tries a better one after `&probe=...` milliseconds.
 *
 * It is somebody with a number, `&person=...`, who makes decisions from `&seed=...`, takes
 * the wait before an attempt from where `&wait=...` says, from 0 to 1, in its range, and
 * looks into `&database=...` whenever something is said to be saved, if it is given.
 */

import {
  httpStream,
  longPolling,
  serverSentEvents,
  webSocket,
  type ClientOptions,
} from "../../src/index.js";
import { indexedDb } from "../../src/persistence.js";
import { createTabs } from "../../src/tabs.js";
import { createRandom } from "../plain.js";
import { Person } from "../programs/person.js";

const query = new URLSearchParams(location.search);
const random = query.has("seed") ? createRandom(Number(query.get("seed"))) : Math.random;

const all = [webSocket, httpStream, serverSentEvents, longPolling];
const wanted = query.get("transport");
const names: string[] = [];

const options: ClientOptions = { url: query.get("url")! };
if (query.has("wait")) options.random = () => Number(query.get("wait"));
if (query.has("probe")) options.probe = Number(query.get("probe"));
if (query.has("tabs")) options.tabs = createTabs();

const person = new Person({
  id: Number(query.get("person")),
  name: query.get("name")!,
  client: options,
  transports: wanted === null ? all : all.filter(({ name }) => name === wanted),
  document: query.has("keep") ? { persistence: indexedDb() } : {},
  random,
  kept: keptWords,
});
const { client, document: collab } = person;
const text = collab.doc.getText("text");

client.on("transport", (name) => names.push(name));
client.connect();

/** The words of a document in the server's database, asked for before anything else is done. */
function keptWords(name: string): Set<string> | null {
  const database = query.get("database");
  if (database === null) return null;
  const request = new XMLHttpRequest();
  try {
    request.open("GET", `/kept?${new URLSearchParams({ database, name })}`, false);
    request.send();
  } catch {
    return null; // This page is offline.
  }
  if (request.status !== 200) throw new Error(request.responseText);
  return new Set(JSON.parse(request.responseText) as string[]);
}

Object.assign(window, {
  names,
  person,
  client,
  collab,
  read: () => text.toString(),
  type: (words: string) => text.insert(text.length, words),
});
