import { defineConfig } from "vitest/config";

export default defineConfig({
  // Time stands still in most of them, and a slow machine takes its time.
  test: { include: ["tests/**/*.test.{ts,tsx}"], testTimeout: 60_000 },
});
