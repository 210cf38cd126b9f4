// Fails if dist/tidewire.js, which Go programs embed, is not what src builds to.
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { bundle, committed } from "./bundle.mjs";

const dir = mkdtempSync(join(tmpdir(), "tidewire-dist-"));
try {
  const fresh = join(dir, "tidewire.js");
  await bundle(fresh);
  if (!readFileSync(fresh).equals(readFileSync(committed))) {
    console.error("dist/tidewire.js is not what src builds to: run `npm run build` and commit it");
    process.exitCode = 1;
  } else {
    console.log("dist/tidewire.js is what src builds to");
  }
} finally {
  rmSync(dir, { recursive: true });
}
