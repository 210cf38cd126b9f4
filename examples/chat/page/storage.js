// What stays in this browser. Storage may be switched off, and may hold what
// somebody else has put there; then it is as if nothing had been kept.

/** Reads a value; `otherwise` if there is none of the same kind. */
export function load(storage, key, otherwise) {
  try {
    const value = JSON.parse(storage.getItem(key));
    const alike = typeof value === typeof otherwise && value !== null && Array.isArray(value) === Array.isArray(otherwise);
    return alike ? value : otherwise;
  } catch {
    return otherwise;
  }
}

/** Keeps a value. */
export function save(storage, key, value) {
  try {
    storage.setItem(key, JSON.stringify(value));
  } catch {
    // It lasts as long as the page.
  }
}
