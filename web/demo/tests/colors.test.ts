import { describe, expect, it } from "vitest";
import { luminance, PALETTE, readColor } from "../src/colors";

/** The contrast of white to a colour, as WCAG defines it. */
function contrastToWhite(color: string): number {
  const channels = [1, 3, 5].map((at) => Number.parseInt(color.slice(at, at + 2), 16));
  return 1.05 / (luminance(channels) + 0.05);
}

describe("colours", () => {
  it.each(PALETTE)("of the palette stay as they are: $name", ({ color }) => {
    expect(readColor(color)).toBe(color);
  });

  it.each([
    undefined,
    null,
    7,
    "red",
    "#fff",
    "#12345g",
    "#112233; background: url(//evil)",
    "#112233\n",
    { toString: () => "#112233" },
  ])("that could be anything become grey: %j", (sent) => {
    expect(readColor(sent)).toBe("#64707d");
  });

  it.each(["#ffffff", "#ffff00", "#30bced", "#000000", "#000080", "#ff0000"])(
    "become readable: %s",
    (sent) => {
      const contrast = contrastToWhite(readColor(sent));
      expect(contrast).toBeGreaterThanOrEqual(4.5);
      expect(contrast).toBeLessThanOrEqual(7.1);
    },
  );
});
