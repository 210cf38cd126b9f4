export { TidewireError } from "./errors.js";
