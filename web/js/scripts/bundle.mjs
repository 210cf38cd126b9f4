// Bundles the client into one minified module. Everything that could make two
// builds of the same source differ (paths, banners, source maps) is left out, so
// that the committed file can be compared with a fresh build byte for byte.
import { build } from "esbuild";
import { fileURLToPath } from "node:url";

export const root = fileURLToPath(new URL("..", import.meta.url));
export const committed = `${root}dist/tidewire.js`;

// Names of properties that classes and objects of src have among themselves. They
// are shortened; test/bundle.test.ts holds that none is public, and that the bundle
// works. A name that is forgotten here only costs bytes.
export const internal = [
  "announce",
  "attach",
  "backlog",
  "base",
  "capabilities",
  "classNumber",
  "datagram",
  "detached",
  "disconnected",
  "dispatch",
  "expires",
  "forget",
  "forgetAll",
  "frame",
  "frequent",
  "held",
  "isIdle",
  "isSendable",
  "limits",
  "lostFrom",
  "maxFrame",
  "number",
  "offsets",
  "optional",
  "optionalId",
  "optionalText",
  "previous",
  "prior",
  "publicationCredit",
  "publications",
  "queued",
  "replaceable",
  "resume",
  "runStream",
  "secret",
  "sendable",
  "sequence",
  "streamEnded",
  "subscribed",
  "subscription",
  "subscriptionCredit",
  "taken",
  "told",
  "waiting",
];

/** @param {string} outfile */
export async function bundle(outfile) {
  await build({
    absWorkingDir: root,
    entryPoints: ["src/index.ts"],
    outfile,
    bundle: true,
    format: "esm",
    platform: "browser",
    target: "es2022",
    minify: true,
    mangleProps: new RegExp(`^(${internal.join("|")})$`),
    legalComments: "none",
    banner: { js: "/* tidewire 0.1.0 | Apache-2.0 */" },
    logLevel: "warning",
  });
}
