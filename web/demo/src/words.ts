/** How things stand between this page and the server, in words that are true. */

import type { CollabDocument } from "collab-client";

/** What people are told who may not write. */
export const READ_ONLY = "You can read this document, but not change it.";

/** What is known of a document and its connection. Times are as `Date.now` gives them. */
export interface Standing
  extends Pick<
    CollabDocument,
    "status" | "error" | "progress" | "saved" | "unsaved" | "kept" | "access"
  > {
  /** When the next attempt is made; null if none is planned. */
  retryAt: number | null;
  /** Whether there was a connection before. */
  known: boolean;
  /** Whether the document is here, from the server or from this browser. */
  opened: boolean;
  /** Whether saving takes longer than it should. */
  late: boolean;
}

/** What is said, and a word for it by which the style sheet knows how to show it. */
export interface Said {
  state: string;
  text: string;
  /** What stands behind it where there is room. */
  more?: string;
}

/** The connection in a word or two. */
export function describeConnection(standing: Standing, now = Date.now()): Said {
  switch (standing.status) {
    case "connecting":
      return { state: "connecting", text: standing.known ? "Reconnecting…" : "Connecting…" };
    case "connected": {
      if (!isLoading(standing)) return { state: "online", text: "Online" };
      const percent = Math.floor(100 * standing.progress);
      const text = percent > 0 ? `Loading… ${percent} %` : "Loading…";
      return { state: "loading", text };
    }
    case "waiting":
      return { state: "waiting", text: countDown(standing.retryAt, now) };
    case "disconnected":
      return { state: "offline", text: "Offline" };
    case "closed":
      return { state: "closed", text: "Closed" };
  }
}

function countDown(retryAt: number | null, now: number): string {
  if (retryAt === null) return "Retrying soon";
  const seconds = Math.ceil((retryAt - now) / 1000);
  return seconds > 0 ? `Retrying in ${seconds} s` : "Reconnecting…";
}

/** Whether the document, or the rest of it, is on its way. */
export function isLoading({ status, progress }: Standing): boolean {
  return status === "connected" && progress < 1;
}

/** What is saved, in a few words. */
export function describeSaved(standing: Standing): Said {
  const { status, saved, unsaved, opened } = standing;
  if (!opened && unsaved === 0) {
    if (status === "closed") return { state: "refused", text: "Not opened" };
    const tried = status === "waiting" || status === "disconnected";
    return { state: "opening", text: tried ? "Not opened yet" : "Opening…" };
  }
  if (saved) return { state: "saved", text: "Saved" };
  if (status === "closed" || standing.access === "read") {
    return { state: "refused", text: `${edits(unsaved)} not saved` };
  }
  if (status === "connected") {
    if (standing.late) return { state: "late", text: `${edits(unsaved)} not saved yet` };
    return { state: "saving", text: "Saving…" };
  }
  return {
    state: "waiting",
    text: unsaved === 1 ? "1 edit waits" : `${unsaved} edits wait`,
    more: standing.kept ? "kept in this browser" : "keep this page open",
  };
}

/** The connection in a sentence or two, for those who ask. */
export function explain(standing: Standing, network: boolean): string {
  const { status, error } = standing;
  switch (status) {
    case "connecting":
      return "Looking for the server.";
    case "connected":
      if (!standing.opened) return "The document is on its way.";
      if (standing.access === "read") return "What others write appears at once.";
      return "Everybody sees what you write at once, and it is saved as you type.";
    case "waiting": {
      const reason = error?.reason ? ` It says: ${sentence(error.reason)}` : "";
      const why = network ? "The server can’t be reached now." : "This device has no network.";
      return `${why}${reason} You can keep writing: it is sent when you are back.`;
    }
    case "disconnected":
      return "You work on your own. What you write is merged with what others write when you go online.";
    case "closed":
      return explainClosed(standing);
  }
}

/** Why the server doesn't want us. */
export function explainClosed({ error, unsaved }: Standing): string {
  switch (error?.code) {
    case 4401:
      return "You need to sign in to open this document.";
    case 4403:
      return "You don’t have access to this document.";
    case 4404:
      return "This document was deleted.";
    default: {
      const what = "The server closed this document";
      const why = error?.reason ? `${what}: ${sentence(error.reason)}` : `${what}.`;
      return unsaved > 0 ? `${why} What you wrote last is not saved.` : why;
    }
  }
}

function sentence(text: string): string {
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

/** What carries the messages, as people call it. */
export function describeTransport(name: string): string {
  switch (name) {
    case "websocket":
      return "WebSocket";
    case "http-stream":
      return "HTTP streaming";
    case "events":
      return "Server-sent events";
    case "polling":
      return "Long polling";
    default:
      return name;
  }
}

/** What one may do with the document. */
export function describeAccess({ status, access }: Standing): string {
  if (status === "closed") return "None";
  if (access === null) return "–";
  return access === "read" ? "You can read" : "You can edit";
}

/** What this browser has of the document. */
export function describeCopy({ kept }: Standing): string {
  return kept ? "Keeps a copy" : "Keeps no copy";
}

function edits(count: number): string {
  return count === 1 ? "1 edit" : `${count} edits`;
}
