import { ListItemNode, ListNode } from "@lexical/list";
import {
  HEADING,
  ORDERED_LIST,
  QUOTE,
  TEXT_FORMAT_TRANSFORMERS,
  UNORDERED_LIST,
} from "@lexical/markdown";
import { AutoFocusPlugin } from "@lexical/react/LexicalAutoFocusPlugin";
import { LexicalCollaboration } from "@lexical/react/LexicalCollaborationContext";
import { CollaborationPlugin } from "@lexical/react/LexicalCollaborationPlugin";
import { LexicalComposer } from "@lexical/react/LexicalComposer";
import { ContentEditable } from "@lexical/react/LexicalContentEditable";
import { LexicalErrorBoundary } from "@lexical/react/LexicalErrorBoundary";
import { ListPlugin } from "@lexical/react/LexicalListPlugin";
import { MarkdownShortcutPlugin } from "@lexical/react/LexicalMarkdownShortcutPlugin";
import { RichTextPlugin } from "@lexical/react/LexicalRichTextPlugin";
import { HeadingNode, QuoteNode } from "@lexical/rich-text";
import type { Provider } from "@lexical/yjs";
import { createRoot } from "react-dom/client";
import { WebsocketProvider } from "y-websocket";
import * as Y from "yjs";
import { documentName, serverUrl, user } from "../shared/page";
import { showWebsocket } from "../shared/status";
import "./style.css";

const MARKDOWN = [HEADING, QUOTE, UNORDERED_LIST, ORDERED_LIST, ...TEXT_FORMAT_TRANSFORMERS];

const doc = new Y.Doc();
const provider = new WebsocketProvider(serverUrl, documentName, doc, { connect: false });

/** The plugin asks for the provider, and connects it when it is ready. */
function createProvider(id: string, docs: Map<string, Y.Doc>): Provider {
  docs.set(id, doc);
  // It has these methods; only their types are wider.
  return provider as unknown as Provider;
}

function App() {
  return (
    <LexicalCollaboration>
      <LexicalComposer
        initialConfig={{
          namespace: "example",
          nodes: [HeadingNode, QuoteNode, ListNode, ListItemNode],
          theme: { collaboration: { cursor: "cursor", cursorName: "cursor-name" } },
          // The content comes from the document.
          editorState: null,
          onError(error) {
            throw error;
          },
        }}
      >
        <RichTextPlugin
          contentEditable={
            <ContentEditable
              className="prose"
              aria-placeholder="Write something. Markdown works."
              placeholder={<p className="placeholder">Write something. Markdown works.</p>}
            />
          }
          ErrorBoundary={LexicalErrorBoundary}
        />
        <CollaborationPlugin
          id={documentName}
          providerFactory={createProvider}
          // Who finds the document empty makes its first paragraph. Two who do at once
          // make two: an application lets one process of its own do it.
          shouldBootstrap={true}
          username={user.name}
          cursorColor={user.color}
        />
        <ListPlugin />
        <MarkdownShortcutPlugin transformers={MARKDOWN} />
        <AutoFocusPlugin />
      </LexicalComposer>
    </LexicalCollaboration>
  );
}

createRoot(document.querySelector("#editor")!).render(<App />);
showWebsocket(provider);
