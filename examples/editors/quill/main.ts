import Quill from "quill";
import QuillCursors from "quill-cursors";
import "quill/dist/quill.snow.css";
import { QuillBinding } from "y-quill";
import { WebsocketProvider } from "y-websocket";
import * as Y from "yjs";
import { documentName, serverUrl, user } from "../shared/page";
import { showWebsocket } from "../shared/status";
import "./style.css";

const doc = new Y.Doc();
const provider = new WebsocketProvider(serverUrl, documentName, doc);
provider.awareness.setLocalStateField("user", user);

Quill.register("modules/cursors", QuillCursors);
const quill = new Quill("#editor", {
  theme: "snow",
  placeholder: "Write something…",
  modules: {
    cursors: true,
    toolbar: [
      [{ header: [1, 2, false] }],
      ["bold", "italic", "underline", "link"],
      [{ list: "ordered" }, { list: "bullet" }, "blockquote", "code-block"],
    ],
    // Undo what you wrote, and not what others did.
    history: { userOnly: true },
  },
});
quill.root.classList.add("prose");
new QuillBinding(doc.getText("quill"), quill, provider.awareness);
quill.focus();

showWebsocket(provider);
