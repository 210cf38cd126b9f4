// What the room is about: the last value of a topic, which everybody gets who comes.

import { byId } from "./dom.js";
import { readAbout, topics } from "./payload.js";

export class About {
  #link;
  #element = byId("room-about");
  #subscription;

  constructor(link) {
    this.#link = link;
  }

  enter(room, failed) {
    this.#subscription?.close();
    this.#show({ text: "", name: "" });
    this.#subscription = this.#link.subscribe(
      topics.about(room),
      { class: "latest" },
      (item) => {
        if (item.kind === "message") this.#show(readAbout(item)); // the newest counts
        else if (item.reason === "reconnect" && !item.to) this.#show({ text: "", name: "" }); // the broker began anew
      },
      failed,
    );
  }

  #show({ text, name }) {
    this.#element.textContent = text;
    this.#element.title = text && `${text} (${name})`;
  }
}
