import { describe, expect, it } from "vitest";
import type { Connection } from "../src/connection";
import { describeConnection, describeSaved } from "../src/status";

const online: Connection = { state: "online" };
const connecting: Connection = { state: "connecting" };
const offline: Connection = { state: "offline", attempt: 3, retryAt: 10_000 };
const refused: Connection = { state: "refused", reason: "Closed." };

describe("status", () => {
  it.each([
    [online, 0, true, "saved", "All changes saved"],
    [online, 2, true, "saving", "Saving…"],
    [connecting, 0, false, "saving", "Opening…"],
    [connecting, 1, false, "saving", "Saving…"],
    [offline, 0, true, "saved", "All changes saved"],
    [offline, 1, true, "offline", "Offline: 1 edit waiting"],
    [offline, 3, false, "offline", "Offline: 3 edits waiting"],
    [offline, 0, false, "offline", "Not opened yet"],
    [refused, 2, true, "offline", "2 edits not saved"],
    [refused, 0, false, "offline", "Not opened"],
  ] as const)("tells the truth about %j with %i waiting", (connection, waiting, loaded, state, text) => {
    expect(describeSaved(connection, waiting, loaded)).toEqual({ state, text });
  });

  it("says when saving takes long", () => {
    const late = { state: "late", text: "3 edits not saved yet" };
    expect(describeSaved(online, 3, true, true)).toEqual(late);
    expect(describeSaved(offline, 3, true, true).state).toBe("offline");
    expect(describeSaved(online, 0, true, true).state).toBe("saved");
  });

  it("counts down to the next attempt", () => {
    expect(describeConnection(offline, 6_500)).toBe("Offline, retrying in 4 s");
    expect(describeConnection(offline, 10_001)).toBe("Reconnecting…");
  });
});
