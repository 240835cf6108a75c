/** What the page says about the connection and about what is saved. */

import type { Connection } from "./connection";
import { announce, find } from "./dom";

/** Milliseconds for which nothing may wait before the page says "saved" again. */
const CALM = 350;

/** Milliseconds without a connection before the page makes more of it. */
const GRACE = 1_200;

/** Milliseconds that saving may take before the page says that it does. */
const PATIENCE = 4_000;

/** Takes in what happens and keeps the page in line with it. */
export interface Status {
  connection(connection: Connection): void;
  waiting(count: number): void;
  denied(reason: string): void;
}

/**
 * Start with a page that connects and has nothing to save.
 *
 * `lock` is called when the server won't take what is written here.
 */
export function showStatus(retry: () => void, lock: () => void): Status {
  const connectionElement = find("connection");
  const savedElement = find("saved");
  const banner = find("banner");
  const bannerText = find("banner-text");
  const retryButton = find<HTMLButtonElement>("retry");

  let connection: Connection = { state: "connecting" };
  let waiting = 0;
  let waitingSince = 0;
  let loaded = false;
  let denial: string | null = null;
  let lostAt = 0;
  let calm: ReturnType<typeof setTimeout> | undefined;

  const draw = (): void => {
    const state = connection.state === "refused" ? "offline" : connection.state;
    set(connectionElement, state, describeConnection(connection));
    const late = waiting > 0 && Date.now() - waitingSince > PATIENCE;
    const saved = describeSaved(connection, waiting, loaded, late);
    // "Saved" may come late but never early, so that it doesn't flicker.
    const early = saved.state === "saved" && savedElement.dataset["state"] === "saving";
    if (early && connection.state === "online") {
      calm ??= setTimeout(() => {
        calm = undefined;
        const now = describeSaved(connection, waiting, loaded);
        set(savedElement, now.state, now.text);
      }, CALM);
    } else {
      clearTimeout(calm);
      calm = undefined;
      set(savedElement, saved.state, saved.text);
    }
    drawBanner();
  };

  const drawBanner = (): void => {
    const lost = connection.state === "offline" && Date.now() - lostAt > GRACE;
    const refused = connection.state === "refused";
    banner.hidden = !lost && !refused && denial === null;
    banner.dataset["kind"] = refused || denial !== null ? "refused" : "lost";
    retryButton.hidden = !lost;
    if (connection.state === "refused") setText(bannerText, connection.reason);
    else if (denial !== null) setText(bannerText, denial);
    else if (lost) setText(bannerText, describeLoss(waiting, loaded));
  };

  setInterval(() => {
    if (connection.state === "offline" || waiting > 0) draw();
  }, 250);
  retryButton.addEventListener("click", retry);
  window.addEventListener("beforeunload", (event) => {
    if (waiting > 0) event.preventDefault();
  });

  return {
    connection(next) {
      if (next.state === "offline" && connection.state !== "offline") {
        lostAt = Date.now();
        announce("The connection is lost. You can keep writing.");
      }
      if (next.state === "online") {
        if (loaded) announce("Connected again.");
        loaded = true;
        document.body.classList.add("loaded");
      }
      if (next.state === "refused") {
        announce(next.reason);
        lock();
      }
      connection = next;
      draw();
    },
    waiting(count) {
      // Since when nothing was saved: who types on and on may always have some.
      if (count === 0 || count < waiting || waiting === 0) waitingSince = Date.now();
      waiting = count;
      draw();
    },
    denied(reason) {
      denial = reason || "You may read this document but not change it.";
      announce(denial);
      lock();
      draw();
    },
  };
}

function set(target: HTMLElement, state: string, text: string): void {
  if (target.dataset["state"] !== state) target.dataset["state"] = state;
  setText(target.querySelector<HTMLElement>(".text")!, text);
}

function setText(target: HTMLElement, text: string): void {
  if (target.textContent !== text) target.textContent = text;
}

/** The connection in a word or two. */
export function describeConnection(connection: Connection, now = Date.now()): string {
  switch (connection.state) {
    case "connecting":
      return "Connecting…";
    case "online":
      return "Online";
    case "refused":
      return "Closed";
    case "offline": {
      const seconds = Math.ceil((connection.retryAt - now) / 1000);
      return seconds > 0 ? `Offline, retrying in ${seconds} s` : "Reconnecting…";
    }
  }
}

/** What is saved, in a few words that are true. */
export function describeSaved(
  { state }: Connection,
  waiting: number,
  loaded: boolean,
  late = false,
): { state: "saved" | "saving" | "late" | "offline"; text: string } {
  if (state === "refused" && waiting > 0) {
    return { state: "offline", text: `${edits(waiting)} not saved` };
  }
  if (state === "offline" && waiting > 0) {
    return { state: "offline", text: `Offline: ${edits(waiting)} waiting` };
  }
  if (waiting > 0 && late && state === "online") {
    return { state: "late", text: `${edits(waiting)} not saved yet` };
  }
  if (waiting > 0) return { state: "saving", text: "Saving…" };
  if (loaded) return { state: "saved", text: "All changes saved" };
  if (state === "refused") return { state: "offline", text: "Not opened" };
  if (state === "offline") return { state: "offline", text: "Not opened yet" };
  return { state: "saving", text: "Opening…" };
}

function describeLoss(waiting: number, loaded: boolean): string {
  if (!loaded && waiting === 0) return "The server can't be reached yet.";
  if (waiting === 0) return "You are offline. Keep writing: it is sent when you are back.";
  return `You are offline. Keep this page open: ${edits(waiting)} will be sent when you are back.`;
}

function edits(count: number): string {
  return count === 1 ? "1 edit" : `${count} edits`;
}
