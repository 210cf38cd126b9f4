// One's own name: kept in this browser, and changeable.

import { byId, setAvatar } from "./dom.js";
import { cleanName } from "./payload.js";

const KEY = "tidewire-chat-name";
const colours = ["Amber", "Coral", "Indigo", "Ivory", "Jade", "Mossy", "Ochre", "Olive", "Pearl", "Russet", "Silver", "Teal"];
const birds = ["Avocet", "Curlew", "Dunlin", "Gannet", "Heron", "Kittiwake", "Osprey", "Petrel", "Plover", "Puffin", "Sandpiper", "Tern"];

const any = (list) => list[Math.floor(Math.random() * list.length)];

/** Storage may be switched off; then the name lasts as long as the page. */
function stored() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null;
  }
}

function store(name) {
  try {
    localStorage.setItem(KEY, name);
  } catch {
    // It lasts as long as the page.
  }
}

export class Name {
  value;

  /** `changed()` is called when somebody has chosen another name. */
  constructor(changed) {
    const before = stored();
    this.value = before ? cleanName(before) : `${any(colours)} ${any(birds)}`;
    store(this.value);
    this.#show();
    const dialog = byId("name-dialog");
    const input = byId("name");
    byId("me").addEventListener("click", () => {
      input.value = this.value;
      dialog.showModal();
      input.select();
    });
    byId("name-cancel").addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (e) => e.target === dialog && dialog.close());
    byId("name-form").addEventListener("submit", (e) => {
      e.preventDefault();
      dialog.close();
      if (!input.value.trim()) return;
      this.value = cleanName(input.value);
      store(this.value);
      this.#show();
      changed();
    });
  }

  #show() {
    const me = byId("me");
    setAvatar(me.querySelector(".avatar"), this.value);
    me.querySelector("b").textContent = this.value;
  }
}
