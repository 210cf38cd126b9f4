// One's own name: kept in this browser, and changeable.

import { byId, setAvatar } from "./dom.js";
import { cleanName } from "./payload.js";
import { load, save } from "./storage.js";

const KEY = "tidewire-chat-name";
const colours = ["Amber", "Coral", "Indigo", "Ivory", "Jade", "Mossy", "Ochre", "Olive", "Pearl", "Russet", "Silver", "Teal"];
const birds = ["Avocet", "Curlew", "Dunlin", "Gannet", "Heron", "Kittiwake", "Osprey", "Petrel", "Plover", "Puffin", "Sandpiper", "Tern"];

const any = (list) => list[Math.floor(Math.random() * list.length)];

export class Name {
  value;

  /** `changed()` is called when somebody has chosen another name. */
  constructor(changed) {
    const before = load(localStorage, KEY, "");
    this.value = before ? cleanName(before) : `${any(colours)} ${any(birds)}`;
    save(localStorage, KEY, this.value);
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
      save(localStorage, KEY, this.value);
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
