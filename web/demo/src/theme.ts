/** Light or dark: as the system says, until somebody says otherwise. */

import { find } from "./dom";
import { recall, remember } from "./storage";

const system = window.matchMedia("(prefers-color-scheme: dark)");

/** Apply the theme and let the button change it. */
export function setUpTheme(): void {
  const button = find<HTMLButtonElement>("theme");
  let chosen = recall("theme");

  const apply = (): void => {
    const dark = chosen === "dark" || (chosen !== "light" && system.matches);
    document.documentElement.dataset["theme"] = dark ? "dark" : "light";
    button.ariaLabel = dark ? "Use the light theme" : "Use the dark theme";
    button.title = button.ariaLabel;
  };

  button.addEventListener("click", () => {
    const dark = document.documentElement.dataset["theme"] === "dark";
    chosen = dark ? "light" : "dark";
    remember("theme", chosen);
    apply();
  });
  system.addEventListener("change", apply);
  apply();
}
