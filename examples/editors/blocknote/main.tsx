import { withCollaboration } from "@blocknote/core/yjs";
import { BlockNoteView } from "@blocknote/mantine";
import "@blocknote/mantine/style.css";
import { useCreateBlockNote } from "@blocknote/react";
import { HocuspocusProvider } from "@hocuspocus/provider";
import { createRoot } from "react-dom/client";
import { documentName, serverUrl, user } from "../shared/page";
import { showHocuspocus } from "../shared/status";
import "./style.css";

const provider = new HocuspocusProvider({ url: serverUrl, name: documentName });

function App() {
  const editor = useCreateBlockNote(
    withCollaboration({
      autofocus: true,
      collaboration: {
        provider: { awareness: provider.awareness! },
        fragment: provider.document.getXmlFragment("blocknote"),
        user,
      },
    }),
  );
  return <BlockNoteView editor={editor} />;
}

createRoot(document.querySelector("#editor")!).render(<App />);
showHocuspocus(provider);
