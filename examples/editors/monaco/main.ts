import "monaco-editor/esm/vs/basic-languages/python/python.contribution.js";
import "monaco-editor/esm/vs/editor/edcore.main.js";
import * as monaco from "monaco-editor/esm/vs/editor/editor.api.js";
import EditorWorker from "monaco-editor/esm/vs/editor/editor.worker.js?worker";
import { MonacoBinding } from "y-monaco";
import { WebsocketProvider } from "y-websocket";
import * as Y from "yjs";
import { documentName, serverUrl, user } from "../shared/page";
import { showWebsocket } from "../shared/status";
import { nameCursors } from "./cursors";
import "./style.css";

const doc = new Y.Doc();
const provider = new WebsocketProvider(serverUrl, documentName, doc);
provider.awareness.setLocalStateField("user", user);

// Bundled, so that nothing comes from elsewhere.
self.MonacoEnvironment = { getWorker: () => new EditorWorker() };

const dark = matchMedia("(prefers-color-scheme: dark)");
const setTheme = (): void => monaco.editor.setTheme(dark.matches ? "vs-dark" : "vs");
dark.addEventListener("change", setTheme);
setTheme();

const editor = monaco.editor.create(document.querySelector<HTMLElement>("#editor")!, {
  language: "python",
  automaticLayout: true,
  fontSize: 15,
  lineHeight: 1.65,
  minimap: { enabled: false },
  overviewRulerLanes: 0,
  padding: { top: 28 },
  scrollBeyondLastLine: false,
});
// Line ends have one length for everybody, or positions differ.
editor.getModel()!.setEOL(monaco.editor.EndOfLineSequence.LF);
new MonacoBinding(doc.getText("monaco"), editor.getModel()!, new Set([editor]), provider.awareness);
nameCursors(provider.awareness);
editor.focus();

showWebsocket(provider);
