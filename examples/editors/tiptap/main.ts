import { HocuspocusProvider } from "@hocuspocus/provider";
import { Editor } from "@tiptap/core";
import { Collaboration } from "@tiptap/extension-collaboration";
import { CollaborationCaret } from "@tiptap/extension-collaboration-caret";
import { Placeholder } from "@tiptap/extensions";
import { StarterKit } from "@tiptap/starter-kit";
import { documentName, serverUrl, user } from "../shared/page";
import { showHocuspocus } from "../shared/status";
import "./style.css";

const provider = new HocuspocusProvider({ url: serverUrl, name: documentName });

new Editor({
  element: document.querySelector("#editor"),
  autofocus: true,
  editorProps: { attributes: { class: "prose" } },
  extensions: [
    // Collaboration has its own undo: of what you wrote, and not of what others did.
    StarterKit.configure({ undoRedo: false }),
    Collaboration.configure({ document: provider.document }),
    CollaborationCaret.configure({ provider, user }),
    Placeholder.configure({ placeholder: "Write something. Markdown works." }),
  ],
});

showHocuspocus(provider);
