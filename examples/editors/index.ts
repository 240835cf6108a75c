import { serverUrl } from "./shared/page";

document.querySelector("#server")!.textContent = serverUrl;

// Another server is another for all pages.
for (const link of document.querySelectorAll("a")) link.search = location.search;
