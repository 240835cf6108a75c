import { httpStream, longPolling, serverSentEvents, webSocket } from "collab-client";
import { describe, expect, it } from "vitest";
import { describeLatency } from "../src/latency";
import {
  describeConnection,
  describeSaved,
  describeTransport,
  explain,
  explainClosed,
  isLoading,
  type Standing,
} from "../src/words";

const online: Standing = {
  status: "connected",
  error: null,
  progress: 1,
  saved: true,
  unsaved: 0,
  kept: true,
  access: "write",
  retryAt: null,
  known: true,
  opened: true,
  late: false,
};
const waiting: Partial<Standing> = { status: "waiting", retryAt: 10_000 };
const unopened: Partial<Standing> = { opened: false, access: null, progress: 0 };

function closed(code: number, reason = ""): Standing {
  return { ...online, status: "closed", error: { code, reason, final: true } };
}

function unsaved(count: number, rest: Partial<Standing> = {}): Standing {
  return { ...online, ...rest, saved: false, unsaved: count };
}

describe("what is said of the edits", () => {
  it.each([
    [online, "saved", "Saved"],
    [{ ...online, ...waiting }, "saved", "Saved"],
    [unsaved(2), "saving", "Saving…"],
    [unsaved(3, { late: true }), "late", "3 edits not saved yet"],
    [unsaved(1, waiting), "waiting", "1 edit waits"],
    [unsaved(3, { status: "disconnected" }), "waiting", "3 edits wait"],
    [unsaved(3, { status: "connecting", late: true }), "waiting", "3 edits wait"],
    [unsaved(2, { access: "read" }), "refused", "2 edits not saved"],
    [unsaved(1, { status: "closed" }), "refused", "1 edit not saved"],
    [{ ...online, ...unopened, status: "connecting" }, "opening", "Opening…"],
    [{ ...online, ...unopened, ...waiting }, "opening", "Not opened yet"],
    [{ ...online, ...unopened, status: "closed" }, "refused", "Not opened"],
    [unsaved(1, { ...unopened, ...waiting }), "waiting", "1 edit waits"],
  ] as const)("is true of %j", (standing, state, text) => {
    expect(describeSaved(standing)).toMatchObject({ state, text });
  });

  it("never calls saved what is not", () => {
    for (const status of ["connected", "connecting", "waiting", "disconnected", "closed"] as const) {
      for (const count of [0, 1]) {
        expect(describeSaved(unsaved(count, { status })).state).not.toBe("saved");
      }
    }
  });

  it("says where they wait", () => {
    expect(describeSaved(unsaved(1, waiting)).more).toBe("kept in this browser");
    const lost = unsaved(1, { ...waiting, kept: false });
    expect(describeSaved(lost).more).toBe("keep this page open");
  });
});

describe("what is said of the connection", () => {
  it("counts down to the next attempt", () => {
    const standing = { ...online, ...waiting };
    expect(describeConnection(standing, 6_500).text).toBe("Retrying in 4 s");
    expect(describeConnection(standing, 10_001).text).toBe("Reconnecting…");
    expect(describeConnection({ ...standing, retryAt: null }).text).toBe("Retrying soon");
  });

  it("says how much has arrived, and not that all has", () => {
    const standing = { ...online, progress: 0.999 };
    expect(isLoading(standing)).toBe(true);
    expect(describeConnection(standing).text).toBe("Loading… 99 %");
    expect(describeConnection({ ...standing, progress: 0 }).text).toBe("Loading…");
    expect(isLoading({ ...standing, status: "waiting" })).toBe(false);
    expect(isLoading(online)).toBe(false);
  });

  it("knows the first time from the next", () => {
    const standing = { ...online, status: "connecting" } as const;
    expect(describeConnection({ ...standing, known: false }).text).toBe("Connecting…");
    expect(describeConnection(standing).text).toBe("Reconnecting…");
  });

  it("says whose fault it is", () => {
    const standing = { ...online, ...waiting };
    expect(explain(standing, false)).toContain("This device has no network.");
    expect(explain(standing, true)).toContain("The server can’t be reached now.");
    const error = { code: 4503, reason: "try again later", final: false };
    expect(explain({ ...standing, error }, true)).toContain("It says: try again later.");
  });

  it.each([
    [closed(4401), "You need to sign in to open this document."],
    [closed(4403, "permission-denied"), "You don’t have access to this document."],
    [closed(4413, "too many documents"), "The server closed this document: too many documents."],
    [closed(1000), "The server closed this document."],
  ])("says in plain words why it ended: %j", (standing, words) => {
    expect(explainClosed(standing)).toBe(words);
  });

  it.each([
    [webSocket.name, "WebSocket"],
    [httpStream.name, "HTTP streaming"],
    [serverSentEvents.name, "Server-sent events"],
    [longPolling.name, "Long polling"],
    ["pigeon", "pigeon"],
  ])("names the transport: %s", (name, words) => {
    expect(describeTransport(name)).toBe(words);
  });

  it.each([
    [0.2, "1 ms"],
    [23.6, "24 ms"],
    [1_234, "1.2 s"],
  ])("gives a latency of %d ms as one reads it", (latency, words) => {
    expect(describeLatency(latency)).toBe(words);
  });
});
