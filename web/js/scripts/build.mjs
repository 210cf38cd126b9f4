import { bundle, committed } from "./bundle.mjs";

await bundle(committed);
