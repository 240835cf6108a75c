/** What the frame of a page shows: who is here, the connection, and what is saved. */

import type { HocuspocusProvider } from "@hocuspocus/provider";
import type { Awareness } from "y-protocols/awareness";
import type { WebsocketProvider } from "y-websocket";
import { documentName, serverUrl } from "./page";

interface Status {
  connection: "connecting" | "online" | "offline";
  saved: "saved" | "saving" | "offline";
  /** What to say of `saved`. */
  text: string;
}

/** Show what a Hocuspocus provider knows: it counts the edits that are not saved. */
export function showHocuspocus(provider: HocuspocusProvider): void {
  const draw = drawFrame(provider.awareness!);
  let connected = false;
  let opened = false;
  let denied = "";

  const show = (): void => {
    const { isSynced, unsyncedChanges } = provider;
    opened ||= isSynced;
    const connection =
      denied !== "" || (opened && !connected) ? "offline" : isSynced ? "online" : "connecting";
    if (denied !== "") draw({ connection, saved: "offline", text: denied });
    else if (!opened) draw({ connection, saved: "saving", text: "Opening…" });
    else if (unsyncedChanges === 0) draw({ connection, saved: "saved", text: "All changes saved" });
    else if (connected) draw({ connection, saved: "saving", text: "Saving…" });
    else draw({ connection, saved: "offline", text: "Changes wait for the connection" });
  };

  provider.on("status", ({ status }: { status: string }) => {
    connected = status === "connected";
    show();
  });
  provider.on("authenticationFailed", ({ reason }: { reason: string }) => {
    denied = reason;
    show();
  });
  provider.on("authenticated", () => {
    denied = "";
    show();
  });
  provider.on("synced", show);
  provider.on("unsyncedChanges", show);
  show();
}

/**
 * Show what a y-websocket provider knows: whether it has what the server has.
 *
 * It doesn't know what is saved, although the server tells it.
 */
export function showWebsocket(provider: WebsocketProvider): void {
  const draw = drawFrame(provider.awareness);
  let opened = false;
  let closed = "";

  const show = (): void => {
    const { synced, wsconnected } = provider;
    opened ||= synced;
    const connection =
      closed !== "" || (opened && !wsconnected) ? "offline" : synced ? "online" : "connecting";
    if (closed !== "") draw({ connection, saved: "offline", text: closed });
    else if (!opened) draw({ connection, saved: "saving", text: "Opening…" });
    else if (wsconnected) draw({ connection, saved: "saved", text: "In sync" });
    else draw({ connection, saved: "offline", text: "Changes wait for the connection" });
  };

  provider.on("status", show);
  provider.on("sync", show);
  provider.on("closed", ({ code, reason }) => {
    closed = reason || `Closed (${code})`;
    show();
  });
  show();
}

const CONNECTION = { connecting: "Connecting…", online: "Online", offline: "Offline" };

/** Put a frame around the editor, and return what keeps its last line up to date. */
function drawFrame(awareness: Awareness): (status: Status) => void {
  const people = make("ul", "people");
  const header = make("header", "bar");
  const home = make("a", "home", "← All editors");
  home.href = `../${location.search}`;
  header.append(make("h1", "title", document.title), make("span", "name", documentName));
  header.append(make("span", "spacer"), people, home);

  const connection = make("span", "connection");
  const saved = make("span", "saved");
  connection.dataset["testid"] = "connection";
  saved.dataset["testid"] = "saved";
  const footer = make("footer", "foot");
  footer.append(connection, saved, make("span", "spacer"), make("span", "server", serverUrl));

  document.body.prepend(header);
  document.body.append(footer);

  const drawPeople = (): void => {
    const states = [...awareness.getStates()];
    // Most editors keep the person in `user`; Lexical keeps it in the state itself.
    const users = states.map(([client, state]) => ({ client, ...(state["user"] ?? state) }));
    const known = users.filter(({ name }) => typeof name === "string");
    people.replaceChildren(
      ...known.map(({ client, name, color }) => {
        const person = make("li", "person", name.slice(0, 1));
        person.title = client === awareness.clientID ? `${name} (you)` : name;
        person.style.setProperty("--person", color);
        return person;
      }),
    );
  };
  awareness.on("change", drawPeople);
  drawPeople();

  return (status) => {
    connection.dataset["state"] = status.connection;
    connection.textContent = CONNECTION[status.connection];
    saved.dataset["state"] = status.saved;
    saved.textContent = status.text;
  };
}

function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  className: string,
  text = "",
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}
