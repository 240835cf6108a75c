/** Which document this page shows, how to share it, and how to open another. */

import { announce, element, find } from "./dom";
import { DOCUMENT_NAME, inventDocumentName, readDocumentName } from "./names";
import { recall, remember } from "./storage";

/** How many documents are offered to open again. */
const RECENT = 6;

/** How long a button says that it did what it should, in milliseconds. */
const CONFIRMATION = 2_000;

/** The name in the page's address, or a new one, which is then put there. */
export function chooseDocument(): string {
  const asked = new URLSearchParams(location.search).get("doc") ?? "";
  const name = readDocumentName(asked) || inventDocumentName();
  if (name !== asked) history.replaceState(null, "", addressOf(name));
  return name;
}

/** The address to open a document at, on this page. */
export function addressOf(name: string): string {
  const url = new URL(location.href);
  url.search = url.hash = "";
  url.searchParams.set("doc", name);
  // Slashes and most letters are fine in a query, and far nicer to read.
  url.search = url.search.replaceAll("%2F", "/");
  return url.href;
}

/** Show the document's name, with what can be done about it. */
export function showDocument(name: string): void {
  document.title = `${name} · collab`;
  find("document-name").textContent = name;
  find("document").dataset["name"] = name;
  find("document").title = name;
  listRecent(name);

  const input = find<HTMLInputElement>("open-name");
  input.maxLength = DOCUMENT_NAME;
  find("document-panel").addEventListener("toggle", (event) => {
    if ((event as ToggleEvent).newState !== "open") return;
    input.value = name;
    input.focus();
    input.select();
  });
  find<HTMLFormElement>("open-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const other = readDocumentName(input.value);
    if (other === "") input.focus();
    else if (other === name) find("document-panel").hidePopover();
    else location.assign(addressOf(other));
  });
  for (const id of ["new", "new-here"]) {
    find(id).addEventListener("click", () => {
      location.assign(addressOf(inventDocumentName()));
    });
  }
}

function listRecent(name: string): void {
  const known = recall("recent");
  const names = Array.isArray(known)
    ? known.filter((other): other is string => typeof other === "string")
    : [];
  const others = names.filter((other) => other !== name).slice(0, RECENT);
  remember("recent", [name, ...others]);

  find("recent-title").hidden = others.length === 0;
  find("recent").replaceChildren(
    ...others.map((other) => {
      const link = element("a", {
        className: "row",
        href: addressOf(other),
        textContent: other,
      });
      const item = element("li", {});
      item.append(link);
      return item;
    }),
  );
}

/** Let the button copy the address of this page. */
export function setUpShare(): void {
  const button = find<HTMLButtonElement>("share");
  const label = find("share-label");
  let timer: ReturnType<typeof setTimeout> | undefined;

  button.addEventListener("click", async () => {
    const copied = await copy(location.href);
    button.dataset["state"] = copied ? "copied" : "failed";
    label.textContent = copied ? "Link copied" : "Copy the address bar";
    announce(copied ? "Link copied." : "The link could not be copied.");
    clearTimeout(timer);
    timer = setTimeout(() => {
      delete button.dataset["state"];
      label.textContent = "Share";
    }, CONFIRMATION);
  });
}

async function copy(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Without https, and where permission is denied, only the old way is left.
    const field = element("textarea", { value: text, readOnly: true });
    const focused = document.activeElement;
    field.className = "away";
    document.body.append(field);
    field.select();
    const copied = document.execCommand("copy");
    field.remove();
    if (focused instanceof HTMLElement) focused.focus();
    return copied;
  }
}
