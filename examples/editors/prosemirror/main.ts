import { exampleSetup } from "prosemirror-example-setup";
import { keymap } from "prosemirror-keymap";
import { Schema } from "prosemirror-model";
import { schema as basic } from "prosemirror-schema-basic";
import { addListNodes } from "prosemirror-schema-list";
import { EditorState } from "prosemirror-state";
import { EditorView } from "prosemirror-view";
import "prosemirror-view/style/prosemirror.css";
import { redo, undo, yCursorPlugin, ySyncPlugin, yUndoPlugin } from "y-prosemirror";
import { WebsocketProvider } from "y-websocket";
import * as Y from "yjs";
import { documentName, serverUrl, user } from "../shared/page";
import { showWebsocket } from "../shared/status";
import "./style.css";

const schema = new Schema({
  nodes: addListNodes(basic.spec.nodes, "paragraph block*", "block"),
  marks: basic.spec.marks,
});

const doc = new Y.Doc();
const provider = new WebsocketProvider(serverUrl, documentName, doc);
provider.awareness.setLocalStateField("user", user);

const view = new EditorView(document.querySelector("#editor"), {
  attributes: { class: "prose" },
  state: EditorState.create({
    schema,
    plugins: [
      ySyncPlugin(doc.getXmlFragment("prosemirror")),
      yCursorPlugin(provider.awareness),
      // Undo what you wrote, and not what others did.
      yUndoPlugin(),
      keymap({ "Mod-z": undo, "Mod-y": redo, "Mod-Shift-z": redo }),
      ...exampleSetup({ schema, history: false, menuBar: false }),
    ],
  }),
});
view.focus();

showWebsocket(provider);
