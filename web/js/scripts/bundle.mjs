// Bundles the client into one minified module. Everything that could make two
// builds of the same source differ (paths, banners, source maps) is left out, so
// that the committed file can be compared with a fresh build byte for byte.
import { build } from "esbuild";
import { writeFile } from "node:fs/promises";
import { minify } from "terser";
import { fileURLToPath } from "node:url";

export const root = fileURLToPath(new URL("..", import.meta.url));
export const committed = `${root}dist/tidewire.js`;

// Names of properties that classes and objects of src have among themselves. They
// are shortened; test/bundle.test.ts holds that none is public, and that the bundle
// works. A name that is forgotten here only costs bytes.
export const internal = [
  "absent",
  "announce",
  "announced",
  "attach",
  "backlog",
  "base",
  "capabilities",
  "classNumber",
  "connected",
  "control",
  "cost",
  "datagram",
  "detached",
  "disconnected",
  "dispatch",
  "drop",
  "each",
  "end",
  "ended",
  "expired",
  "flags",
  "flow",
  "forget",
  "forgetAll",
  "forgotten",
  "frame",
  "freed",
  "frequent",
  "fresh",
  "gap",
  "heard",
  "held",
  "isIdle",
  "isOwn",
  "isSendable",
  "knows",
  "limits",
  "live",
  "lostFrom",
  "mark",
  "marks",
  "maxFrame",
  "number",
  "offsets",
  "open",
  "optional",
  "optionalId",
  "optionalText",
  "pages",
  "payload",
  "pending",
  "ping",
  "previous",
  "prior",
  "prioritize",
  "probe",
  "publication",
  "publicationCredit",
  "publications",
  "put",
  "queued",
  "replaceable",
  "replay",
  "restart",
  "resume",
  "router",
  "runStream",
  "secret",
  "sendable",
  "sequence",
  "settled",
  "single",
  "skip",
  "streamEnded",
  "subscribed",
  "subscriptionCredit",
  "synced",
  "take",
  "taken",
  "timed",
  "told",
  "topics",
  "transportStats",
  "uint",
  "until",
  "usedAt",
  "welcome",
  "window",
];

/** @param {string} outfile */
export async function bundle(outfile) {
  const { outputFiles } = await build({
    absWorkingDir: root,
    entryPoints: ["src/index.ts"],
    write: false,
    bundle: true,
    format: "esm",
    platform: "browser",
    target: "es2022",
    minify: true,
    mangleProps: new RegExp(`^(${internal.join("|")})$`),
    legalComments: "none",
    logLevel: "warning",
  });
  // What esbuild leaves, terser finds: some 2 % less.
  const { code } = await minify(outputFiles[0].text, {
    module: true,
    ecma: 2020,
    compress: { passes: 3, unsafe_arrows: true },
    format: { preamble: "/* tidewire 0.1.0 | Apache-2.0 */" },
  });
  await writeFile(outfile, `${code}\n`);
}
