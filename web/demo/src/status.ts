/** The page's one place for what becomes of the text: the foot, and a panel behind it. */

import type { ObservableV2 } from "lib0/observable";
import type { Connection } from "./connection";
import { announce, find, oncePerFrame } from "./dom";
import { describeLatency, watchLatency } from "./latency";
import {
  describeAccess,
  describeConnection,
  describeCopy,
  describeSaved,
  describeTransport,
  explain,
  explainClosed,
  isLoading,
  READ_ONLY,
  type Said,
  type Standing,
} from "./words";

/** Milliseconds for which nothing may wait before the page says "saved" again. */
const CALM = 350;

/** Milliseconds that saving may take before the page says that it does. */
const PATIENCE = 4_000;

/** Milliseconds that a browser may take to write what comes to its disk. */
const WRITING = 2_000;

/** Milliseconds between two looks at what changes without an event. */
const TICK = 250;

/** Show how a document stands; `lock` is told whether it can't be edited. */
export function showStatus(
  connection: Connection,
  lock: (locked: boolean) => void,
): void {
  const { client, document } = connection;
  const look = watchStanding(connection);
  let latency: number | null = null;
  let locked = false;

  const drawSaved = showSaved();
  const draw = (): void => {
    const standing = look();
    const { status } = standing;
    set(find("connection"), describeConnection(standing));
    drawSaved(describeSaved(standing));
    drawProgress(standing);
    drawBanner(standing);
    drawPanel(standing);

    const route: string[] = [];
    if (status === "connected") route.push(describeTransport(client.transportName));
    if (status === "connected" && latency !== null) route.push(describeLatency(latency));
    setText("route", route.join(" · "));
    setText("transport", route[0] ?? "–");
    setText("latency", route[1] ?? "–");

    find("retry").hidden = !(status === "waiting" || (status === "connecting" && standing.known));
    find("online").hidden = status !== "disconnected";
    find("offline").ariaChecked = String(connection.offline);
    window.document.body.classList.toggle("loaded", standing.opened);
    const lockedNow = status === "closed" || standing.access === "read";
    if (lockedNow !== locked) lock(lockedNow);
    locked = lockedNow;
  };
  const refresh = oncePerFrame(draw);

  for (const name of ["status", "synced", "progress", "access", "error"] as const) {
    document.on(name, refresh);
  }
  // At once, as "saved" must not be shown for longer than it is true.
  document.on("saved", draw);
  // Of clients that can change their transport.
  (client as unknown as ObservableV2<{ transport: () => void }>).on("transport", refresh);
  watchLatency(connection, (milliseconds) => {
    latency = milliseconds;
    refresh();
  });
  setInterval(draw, TICK);
  void document.whenLoaded.then(refresh);

  for (const id of ["retry", "again"]) {
    find(id).addEventListener("click", () => document.retry());
  }
  find("offline").addEventListener("click", () => {
    connection.setOffline(!connection.offline);
    draw();
  });
  find("online").addEventListener("click", () => {
    connection.setOffline(false);
    // The button goes, and the focus with it.
    find("status").focus();
    draw();
  });
  speak(look, document);
  draw();
}

/** Gather what is known, and what only somebody who keeps looking can know. */
function watchStanding({ client, document }: Connection): () => Standing {
  let known = false;
  let loaded = false;
  let opened = false;
  let keptAt = -Infinity;
  let unsaved = 0;
  let movedAt = 0;

  void document.whenLoaded.then(() => {
    loaded = true;
    opened ||= document.doc.store.clients.size > 0;
  });
  document.on("synced", (synced) => {
    opened ||= synced;
  });

  return () => {
    const now = Date.now();
    known ||= document.status === "connected";
    if (loaded && document.kept) keptAt = now;
    // Since when nothing was saved: who types on and on may always have some.
    if (document.unsaved < unsaved || unsaved === 0) movedAt = now;
    unsaved = document.unsaved;
    const { status, error, progress, saved, access } = document;
    return {
      ...{ status, error, progress, saved, access, unsaved, known, opened },
      // What came just now is still being written.
      kept: now - keptAt < WRITING,
      late: unsaved > 0 && now - movedAt > PATIENCE,
      retryAt: client.retryAt,
    };
  };
}

/** Show what is saved: "saved" may come late but never early, so that it is calm. */
function showSaved(): (saved: Said) => void {
  const element = find("saved");
  let latest: Said;
  let calm: ReturnType<typeof setTimeout> | undefined;

  const show = (): void => {
    calm = undefined;
    set(element, latest);
    setText("saved-more", latest.more === undefined ? "" : `; ${latest.more}`);
  };
  return (saved) => {
    latest = saved;
    if (saved.state === "saved" && element.dataset["state"] === "saving") {
      calm ??= setTimeout(show, CALM);
    } else {
      clearTimeout(calm);
      show();
    }
  };
}

function drawProgress(standing: Standing): void {
  const bar = find("progress");
  const percent = Math.floor(100 * standing.progress);
  bar.hidden = !isLoading(standing);
  // What was written in one go arrives in one go: until then, nobody knows how much.
  bar.ariaValueNow = percent > 0 ? String(percent) : null;
  bar.style.setProperty("--progress", `${percent}%`);
}

function drawBanner(standing: Standing): void {
  const closed = standing.status === "closed";
  const banner = find("banner");
  banner.hidden = !closed && standing.access !== "read";
  banner.dataset["kind"] = closed ? "closed" : "read-only";
  setText("banner-text", closed ? explainClosed(standing) : READ_ONLY);
  for (const id of ["again", "new-here"]) find(id).hidden = !closed;
}

function drawPanel(standing: Standing): void {
  setText("status-lead", describeConnection(standing).text);
  setText("status-detail", explain(standing, navigator.onLine));
  setText("access", describeAccess(standing));
  setText("copy", describeCopy(standing));
}

/** Tell people who don't see the page what has changed. */
function speak(look: () => Standing, document: Connection["document"]): void {
  let lost = false;
  document.on("status", (status) => {
    if (status === "connected" && lost) announce("Connected again.");
    if (status === "waiting" && !lost) {
      announce("The connection is lost. You can keep writing.");
    }
    if (status === "disconnected") announce("You work offline. You can keep writing.");
    if (status === "closed") announce(explainClosed(look()));
    if (status !== "connecting") lost = status === "waiting" || status === "disconnected";
  });
  document.on("access", (access) => {
    if (access === "read") announce(READ_ONLY);
  });
}

function set(target: HTMLElement, { state, text }: Said): void {
  if (target.dataset["state"] !== state) target.dataset["state"] = state;
  write(target.querySelector<HTMLElement>(".text")!, text);
}

function setText(id: string, text: string): void {
  write(find(id), text);
}

function write(target: HTMLElement, text: string): void {
  if (target.textContent !== text) target.textContent = text;
}
