/** The colours of people: the only bright ones on the page. */

/** Colours with a contrast of at least 4.5 to white text and 3.4 to the dark page. */
export const PALETTE: readonly { name: string; color: string }[] = [
  { name: "Rose", color: "#d81b60" },
  { name: "Coral", color: "#d23f2a" },
  { name: "Amber", color: "#b45309" },
  { name: "Olive", color: "#647c00" },
  { name: "Green", color: "#15803d" },
  { name: "Teal", color: "#0f7c83" },
  { name: "Blue", color: "#1d6fd8" },
  { name: "Indigo", color: "#5b5bd6" },
  { name: "Violet", color: "#8b46d8" },
  { name: "Magenta", color: "#b832a8" },
];

/** The relative luminance below which white text on a colour has a contrast of 4.5. */
const BRIGHTEST = 0.183;

/** The relative luminance above which a colour can be told from the dark page. */
const DARKEST = 0.1;

/** What somebody without a usable colour gets. */
const GREY = "#64707d";

/**
 * A colour that somebody else sent, made safe and readable.
 *
 * What isn't written as `#rrggbb` becomes grey: it could be any CSS. What is too
 * bright for a white label, or too dark for the dark page, moves until it isn't.
 */
export function readColor(value: unknown): string {
  if (typeof value !== "string" || !/^#[0-9a-f]{6}$/i.test(value)) return GREY;
  let channels = [1, 3, 5].map((at) => Number.parseInt(value.slice(at, at + 2), 16));
  while (luminance(channels) > BRIGHTEST) {
    channels = channels.map((channel) => Math.floor(channel * 0.95));
  }
  while (luminance(channels) < DARKEST) {
    channels = channels.map((channel) => Math.ceil(channel + (255 - channel) * 0.05));
  }
  return `#${channels.map((channel) => channel.toString(16).padStart(2, "0")).join("")}`;
}

/** The relative luminance of red, green and blue from 0 to 255, as WCAG defines it. */
export function luminance(channels: readonly number[]): number {
  const [red, green, blue] = channels.map((channel) => {
    const value = channel / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  }) as [number, number, number];
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}
