/** What the pages have in common: which server, which document, who you are. */

import "@fontsource-variable/inter";
import "@fontsource-variable/source-serif-4";
import "@fontsource-variable/source-serif-4/wght-italic.css";
import "./page.css";

const PEOPLE = [
  { name: "Ada", color: "#d81b60" },
  { name: "Boris", color: "#1d6fd8" },
  { name: "Chiara", color: "#15803d" },
  { name: "Dmitri", color: "#b45309" },
  { name: "Elif", color: "#5b5bd6" },
  { name: "Farid", color: "#0f7c83" },
  { name: "Grace", color: "#d23f2a" },
  { name: "Hana", color: "#8b46d8" },
];

const query = new URLSearchParams(location.search);

/** The address of the server: the one line that changes when you move to it. */
export const serverUrl: string =
  query.get("server") ?? import.meta.env["VITE_COLLAB_URL"] ?? "ws://localhost:8000/ws";

/** The name of the document: that of the page, or what `?doc=` says. */
export const documentName =
  query.get("doc") ?? `examples/${document.title.toLowerCase()}`;

/** Who you are: somebody else in each window, or who `?name=` says. */
export const user = somebody(query.get("name"));

function somebody(name: string | null): { name: string; color: string } {
  const known = PEOPLE.find((person) => person.name === name);
  const person = known ?? PEOPLE[Math.floor(Math.random() * PEOPLE.length)]!;
  return { ...person, name: name ?? person.name };
}
