// Making elements. Text goes in as text, never as markup.

export const byId = (id) => document.getElementById(id);

/** Makes an element with properties, `data-` attributes and children. */
export function el(tag, { data = {}, ...properties } = {}, ...children) {
  const e = Object.assign(document.createElement(tag), properties);
  Object.assign(e.dataset, data);
  e.append(...children);
  return e;
}

/** A colour that is always the same for a name, as the hue of a colour wheel. */
export function hueOf(name) {
  let h = 183;
  for (const c of name) h = Math.imul(h ^ c.codePointAt(0), 16777619);
  h = Math.imul(h ^ (h >>> 15), 2246822519);
  h ^= h >>> 13;
  return ((h >>> 0) % 24) * 15;
}

/** The first letters of a name: one, or two of two words. */
export function initials(name) {
  const words = name.split(/[\s._-]+/u).filter(Boolean);
  const first = (w) => [...(w ?? "")][0] ?? "";
  return (first(words[0]) + (words.length > 1 ? first(words.at(-1)) : "")).toUpperCase();
}

/** Makes an element the avatar of somebody. */
export function setAvatar(e, name) {
  e.textContent = initials(name);
  e.style.setProperty("--hue", hueOf(name));
  return e;
}

export const avatar = (name) => setAvatar(el("span", { className: "avatar", ariaHidden: "true" }), name);

/** Brings a list up to date without touching what stays the same. */
export function fill(list, items, keyOf, make) {
  const old = new Map([...list.children].map((e) => [e.dataset.key, e]));
  const now = items.map((item) => {
    const key = keyOf(item);
    const kept = old.get(key);
    if (kept) return kept;
    const e = make(item);
    e.dataset.key = key;
    return e;
  });
  if (now.length !== list.children.length || now.some((e, i) => e !== list.children[i])) list.replaceChildren(...now);
}
