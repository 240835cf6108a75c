import type { Awareness } from "y-protocols/awareness";

/**
 * Give the cursors of others their colours and names.
 *
 * y-monaco only gives them classes with the number of a client, so each client needs
 * rules of its own. What others send is put in as values, never as CSS.
 */
export function nameCursors(awareness: Awareness): void {
  const sheet = new CSSStyleSheet();
  document.adoptedStyleSheets.push(sheet);

  const draw = (): void => {
    sheet.replaceSync("");
    for (const [client, { user }] of awareness.getStates()) {
      if (user === undefined) continue;
      for (const part of ["yRemoteSelection", "yRemoteSelectionHead"]) {
        const rule = sheet.cssRules[sheet.insertRule(`.${part}-${client} {}`)] as CSSStyleRule;
        rule.style.setProperty("--person", user.color);
        rule.style.setProperty("--name", JSON.stringify(user.name));
      }
    }
  };
  awareness.on("change", draw);
  draw();
}
