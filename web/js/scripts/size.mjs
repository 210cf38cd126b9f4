// Fails if the built client is larger than promised.
import { readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { committed } from "./bundle.mjs";

const limit = 22 << 10;
const source = readFileSync(committed);
const size = gzipSync(source, { level: 9 }).length;
console.log(`dist/tidewire.js: ${source.length} bytes, ${size} gzip; the limit is ${limit}`);
if (size > limit) {
  console.error(`${size - limit} bytes too many`);
  process.exit(1);
}
