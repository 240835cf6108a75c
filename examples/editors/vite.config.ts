import { defineConfig } from "vite";

const editors = ["tiptap", "blocknote", "lexical", "quill", "monaco", "prosemirror"];

export default defineConfig({
  // Relative, so that the pages can be put anywhere.
  base: "./",
  // Two copies of these in one page, and edits or cursors get lost between them.
  resolve: { dedupe: ["yjs", "y-protocols"] },
  build: {
    target: "es2023",
    // Monaco is as large as it is.
    chunkSizeWarningLimit: 5_000,
    rolldownOptions: {
      input: ["index.html", ...editors.map((name) => `${name}/index.html`)],
      onwarn(warning, warn) {
        // "use client" says nothing here: there is no server that renders.
        if (warning.code !== "MODULE_LEVEL_DIRECTIVE") warn(warning);
      },
    },
  },
});
