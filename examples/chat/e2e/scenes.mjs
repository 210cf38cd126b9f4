// What people do with the chat, and what they see.

import assert from "node:assert/strict";

import { joinFromTerminal, serve } from "./program.mjs";

const message = (page, text) => page.locator("#log .message", { has: page.locator(".text").getByText(text, { exact: true }) });

async function says(page, text) {
  await page.locator("#text").fill(text);
  await page.locator("#text").press("Enter");
}

const sees = (page, text) => message(page, text).waitFor();

/** Waits until the text of an element is as wanted. */
const reads = (page, selector, text) => page.locator(selector, { hasText: text }).first().waitFor();

/** Makes a page believe that nobody looks at it, or that somebody does again. */
const hide = (page, hidden) =>
  page.evaluate((value) => {
    Object.defineProperty(document, "hidden", { value, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
  }, hidden);

/** What was said, as the page shows it. */
const shown = (page) => page.locator("#log .message .text").allTextContents();

const numbered = (from, to) => Array.from({ length: to - from + 1 }, (_, i) => `line ${from + i}`);

/** Moves the pointer in small steps, as a hand does. */
async function wander(page, places) {
  for (const [x, y] of places) await page.mouse.move(x, y, { steps: 6 });
}

const talk = [
  ["Ada", "Good morning. The tide tables for next week are in."],
  ["Ben", "Nice. Spring tide on Thursday, so we go out at six?"],
  ["Ada", "Six is good."],
  ["Ada", "I would take the small boat: two of us, the tent, and the new sounding line."],
  ["Ben", "Then I bring coffee ☕ and the charts."],
];

export const scenes = {
  async "two people see each other's messages, names, typing and pointers"({ visit, picture, stopLater }) {
    const server = stopLater(await serve());
    const ada = await visit(server, "Ada Lund");
    await picture(ada, "empty");
    const ben = await visit(server, "Ben Okafor", { colorScheme: "dark" });
    await reads(ada, "#people", "Ben Okafor");
    await reads(ben, "#people", "Ada Lund");
    await reads(ada, "#room-people", "2 here");
    for (const [who, text] of talk) {
      await says(who === "Ada" ? ada : ben, text);
      await Promise.all([sees(ada, text), sees(ben, text)]);
    }
    assert.equal(await ada.locator("#pending .message").count(), 0, "a message that came back is not pending");
    assert.equal(await message(ben, talk[0][1]).locator(".name").textContent(), "Ada Lund");

    const clara = stopLater(await joinFromTerminal(server, "clara", "lobby"));
    await reads(ada, "#people", "clara");
    clara.writes("Greetings from a terminal. Save me a seat?");
    await Promise.all([sees(ada, "Greetings from a terminal. Save me a seat?"), sees(ben, "Greetings from a terminal. Save me a seat?")]);
    await says(ada, "Of course, clara!");
    await clara.sees(/Ada Lund: Of course, clara!/);

    const area = await ben.locator("#log").boundingBox();
    // What fades by itself is waited for from before it is done.
    await Promise.all([
      reads(ada, ".cursor.on", "Ben Okafor"),
      wander(ben, [[area.x + 300, area.y + 60], [area.x + 420, area.y + 150]]),
    ]);
    await Promise.all([
      reads(ada, "#typing.on", "Ben Okafor is writing"),
      ben.locator("#text").pressSequentially("And bring", { delay: 20 }),
    ]);
    const own = await ada.locator("#log").boundingBox();
    await Promise.all([
      reads(ben, ".cursor.on", "Ada Lund"),
      wander(ada, [[own.x + 240, own.y + 40], [own.x + 520, own.y + 205]]),
    ]);
    await Promise.all([
      reads(ben, "#typing.on", "Ada Lund is writing"),
      ada.locator("#text").pressSequentially("Thursday it is", { delay: 20 }),
    ]);
    // The pointer rests on the same message for both.
    const rests = ada.waitForFunction((text) => {
      const cursor = document.querySelector(".cursor.on")?.getBoundingClientRect();
      const line = [...document.querySelectorAll("#log .text")].find((e) => e.textContent === text).getBoundingClientRect();
      return cursor && Math.abs(cursor.top - line.top) < 300;
    }, talk[2][1]);
    await Promise.all([rests, wander(ben, [[area.x + 430, area.y + 155]])]);
    await picture(ada, "wide-light");
    await picture(ben, "wide-dark");
    assert.match(await ada.locator("#wire-lossy").textContent(), /[1-9]\d* in/, "lossy messages are counted");
    await reads(ada, "#wire-trip-short", " ms");

    await ben.locator("#me").click();
    await ben.locator("#name").fill("Benjamin");
    await ben.locator("#name").press("Enter");
    await reads(ada, "#people", "Benjamin");
    assert.equal(await ben.evaluate(() => localStorage.getItem("tidewire-chat-name")), '"Benjamin"');
    await ben.close({ runBeforeUnload: true });
    await ada.locator("#people", { hasText: "Benjamin" }).waitFor({ state: "hidden" });
    clara.writes("/quit");
    await reads(ada, "#room-people", "only you");
  },

  async "what people write stays text"({ visit, stopLater }) {
    const server = stopLater(await serve());
    const eve = await visit(server, "<b onclick=alert(1)>Eve</b>");
    const ada = await visit(server, "Ada");
    const attack = '<img src=x onerror="document.title=1"><script>document.title=2</script> & <i>so on</i>';
    await says(eve, attack);
    await sees(ada, attack);
    assert.equal(await message(ada, attack).locator(".text *").count(), 0);
    assert.equal(await message(ada, attack).locator(".name").textContent(), "<b onclick=alert(1)>Eve</b>".slice(0, 32));
    assert.match(await ada.title(), /Tidewire chat/);
  },

  async "rooms: made by name, with unread messages, each with its own talk"({ visit, picture, stopLater }) {
    const server = stopLater(await serve());
    const ada = await visit(server, "Ada");
    const ben = await visit(server, "Ben");
    await ada.locator("#new-room-name").fill("!?");
    await ada.locator("#new-room-name").press("Enter");
    await reads(ada, "#new-room-error", "needs a letter");
    await ada.locator("#new-room-name").fill("Tea Room");
    await ada.locator("#new-room-name").press("Enter");
    await reads(ada, "#room-name", "#tea-room");
    assert.equal(new URL(ada.url()).hash, "#tea-room");
    // A room in which somebody is appears with everybody.
    await ben.locator('#rooms a[href="#tea-room"]').waitFor();
    await says(ben, "still in the lobby");
    await reads(ada, '#rooms a[href="#lobby"] .unread', "1");
    assert.equal(await ada.locator("#log .message").count(), 0);
    await ada.locator('#rooms a[href="#lobby"]').click();
    await sees(ada, "still in the lobby");
    await ada.goBack();
    await reads(ada, "#room-name", "#tea-room");
    await picture(ada, "rooms");
    await ada.evaluate(async () => {
      for (const room of ["lobby", "tea-room", "lobby", "tea-room"]) {
        const changed = new Promise((done) => addEventListener("hashchange", done, { once: true }));
        location.hash = room;
        await changed; // faster than rooms open
      }
    });
    await ada.locator("[data-ready=tea-room]").waitFor();
    // What is said while the page is not there is unread when it is back.
    await ada.goto("about:blank");
    await says(ben, "while nobody looked");
    await sees(ben, "while nobody looked");
    await ada.goto(`${server.url}#tea-room`);
    await reads(ada, '#rooms a[href="#lobby"] .unread', "1");
    await ada.locator('#rooms a[href="#lobby"]').click();
    await reads(ada, ".line.unread", "1 new");
    await sees(ada, "still in the lobby");
    assert.deepEqual(await shown(ada), ["still in the lobby", "while nobody looked"]);
  },

  async "the broker restarts: held back, sent again, and a gap"({ visit, picture, stopLater }) {
    const first = await serve();
    stopLater(first);
    const ada = await visit(first, "Ada");
    const ben = await visit(first, "Ben");
    const clara = stopLater(await joinFromTerminal(first, "clara", "lobby"));
    await says(ben, "before");
    await sees(ada, "before");
    await says(ben, "/topic soon forgotten");
    await reads(ada, "#room-about", "soon forgotten");
    await first.stop();
    await reads(ada, "#banner[data-tone=wait]", "connection is lost");
    await clara.sees(/the connection is lost/);
    await says(ada, "written meanwhile");
    await reads(ada, "#pending .message[data-state=held]", "written meanwhile");
    await picture(ada, "offline");
    stopLater(await serve(first));
    await Promise.all([sees(ada, "written meanwhile"), reads(ada, ".line.gap", "could not be kept"), reads(ben, ".line.gap", "could not be kept"), clara.sees(/could not be kept/)]);
    await ada.locator("#pending .message").waitFor({ state: "detached" });
    // What is said before Ada is back is what the gap stands for.
    await ada.locator("#wire-state[data-state=connected]").waitFor();
    await says(ben, "after");
    await sees(ada, "after");
    await clara.sees(/Ben: after/);
    await reads(ada, "#people", "Ben");
    await reads(ada, "#people", "clara");
    await reads(ada, "#room-people", "3 here");
    await ada.waitForFunction(() => document.querySelector("#room-about").textContent === "");
    await picture(ada, "gap");
  },

  async "history: who comes late, scrolls up, and comes back"({ visit, picture, stopLater }) {
    const server = stopLater(await serve());
    const clara = stopLater(await joinFromTerminal(server, "clara", "lobby"));
    const ben = await visit(server, "Ben");
    for (const line of numbered(1, 60)) clara.writes(line);
    await sees(ben, "line 60");
    const ada = await visit(server, "Ada");
    await sees(ada, "line 60");
    assert.deepEqual(await shown(ada), numbered(21, 60), "one who was never here sees the newest");
    assert.equal(await ada.locator(".line").count(), 0, "nothing was missed");
    await ada.locator("#scroll").evaluate((e) => (e.scrollTop = 0));
    await sees(ada, "line 1");
    assert.deepEqual(await shown(ada), numbered(1, 60));
    assert.ok((await ada.locator("#scroll").evaluate((e) => e.scrollHeight - e.scrollTop)) > 500, "what is read stays in sight");
    await ada.locator("#older").waitFor({ state: "hidden" });
    await says(ada, "mine");
    await sees(ada, "mine");

    // The page goes, and comes back: exactly what was missed is below the line.
    await ada.goto("about:blank");
    await ben.locator("#people", { hasText: "Ada" }).waitFor({ state: "hidden" });
    for (const line of numbered(61, 63)) clara.writes(line);
    await sees(ben, "line 63");
    await ada.goto(`${server.url}#lobby`);
    await ada.locator("#stage[data-ready=lobby]").waitFor();
    await reads(ada, ".line.unread", "3 new");
    assert.deepEqual(await shown(ada), [...numbered(22, 60), "mine", ...numbered(61, 63)]);
    assert.equal(await message(ada, "mine").locator(".you").count(), 1, "what one said before is still one's own");
    const above = await ada.locator(".line.unread").evaluate((e) => e.previousElementSibling.querySelector(".text").textContent);
    assert.equal(above, "mine");
    await picture(ada, "unread");
    await says(ada, "I am back");
    await ada.locator(".line.unread").waitFor({ state: "detached" });
    // A terminal that joins is shown the newest as well.
    const dan = stopLater(await joinFromTerminal(server, "dan", "lobby"));
    await dan.sees(/line 63/);
  },

  async "the network is cut, and comes back: nothing is missing, nothing comes twice"({ visit, picture, stopLater }) {
    const server = stopLater(await serve());
    const ada = await visit(server, "Ada");
    const ben = await visit(server, "Ben");
    await says(ada, "before");
    await sees(ben, "before");
    await ada.evaluate(() => globalThis.network.cut());
    await reads(ada, "#banner[data-tone=wait]", "connection is lost");
    for (const text of ["missed one", "missed two"]) await says(ben, text);
    await sees(ben, "missed two");
    for (const text of ["held one", "held two", "held three"]) await says(ada, text);
    await ada.locator("#pending .message[data-state=held]").nth(2).waitFor();
    await picture(ada, "cut");
    await ada.evaluate(() => globalThis.network.mend());
    await sees(ada, "held three");
    await sees(ben, "held three");
    await reads(ada, ".line.unread", "2 new");
    const all = ["before", "missed one", "missed two", "held one", "held two", "held three"];
    assert.deepEqual(await shown(ada), all);
    assert.deepEqual(await shown(ben), all);
    assert.equal(await ada.locator(".line.gap").count(), 0);
    assert.equal(await ada.locator("#pending .message").count(), 0);
    await picture(ada, "mended");
    // Within the grace nobody has left.
    await reads(ben, "#room-people", "2 here");
    await reads(ada, "#room-people", "2 here");
  },

  async "more was said than is kept: a gap that tells how much is missing"({ visit, picture, stopLater }) {
    const server = stopLater(await serve());
    const ada = await visit(server, "Ada");
    const ben = await visit(server, "Ben");
    await says(ada, "before");
    await sees(ben, "before");
    await ada.evaluate(() => globalThis.network.cut());
    await reads(ada, "#banner[data-tone=wait]", "connection is lost");
    // A program that says more than a room's history holds in bytes.
    const waves = 80;
    await ben.evaluate(async (n) => {
      const [{ connect }, { url, hash }] = await Promise.all([import("/tidewire.js"), fetch("/config.json").then((r) => r.json())]);
      const program = await connect(url, { certificateHashes: [hash] });
      const filler = "~".repeat(15 << 10);
      await program.publishBatch("chat.lobby.messages", Array.from({ length: n }, (_, i) => ({ value: { name: "Storm", text: `wave ${i + 1}`, filler } })));
      await program.close();
    }, waves);
    await sees(ben, `wave ${waves}`);
    await ada.evaluate(() => globalThis.network.mend());
    await sees(ada, `wave ${waves}`);
    await reads(ada, ".line.gap", "could not be kept");
    await picture(ada, "history-gap");
    const gap = await ada.locator(".line.gap").textContent();
    const missing = Number(/^(\d+) messages could not be kept\s· they are no longer kept$/.exec(gap)?.[1]);
    assert.ok(missing > 0 && missing < waves, gap);
    const rest = Array.from({ length: waves - missing }, (_, i) => `wave ${missing + i + 1}`);
    assert.deepEqual(await shown(ada), ["before", ...rest], "what the gap tells is what is missing");
    await reads(ada, ".line.unread", `${rest.length} new`);
  },

  async "nobody looks: away, and unread"({ visit, picture, stopLater }) {
    const server = stopLater(await serve());
    const ada = await visit(server, "Ada");
    const ben = await visit(server, "Ben");
    await says(ben, "are you there?");
    await sees(ada, "are you there?");
    await hide(ada, true);
    await ben.locator("#people li[data-away=true]", { hasText: "Ada" }).waitFor();
    await picture(ben, "away");
    await says(ben, "it seems not");
    await says(ben, "later then");
    await ada.waitForFunction(() => document.title.startsWith("(2) "));
    await hide(ada, false);
    await ada.waitForFunction(() => document.title.startsWith("#"));
    await reads(ada, ".line.unread", "2 new");
    await ben.locator("#people li[data-away=false]", { hasText: "Ada" }).waitFor();
    // The page is left, and with it the room.
    await says(ada, "sorry, I was at the door");
    await ada.goto("about:blank");
    await reads(ben, "#room-people", "only you");
  },

  async "a topic, dice, and what fades"({ visit, picture, stopLater }) {
    const server = stopLater(await serve());
    const ada = await visit(server, "Ada");
    await says(ada, "/topic Tides and thermoses");
    await reads(ada, "#room-about", "Tides and thermoses");
    const ben = await visit(server, "Ben");
    await reads(ben, "#room-about", "Tides and thermoses");
    const clara = stopLater(await joinFromTerminal(server, "clara", "lobby"));
    await clara.sees(/^# Tides and thermoses \(Ada\)/);

    await says(ben, "/roll 2d6");
    const rolled = ada.locator("#log .message", { hasText: /Ben rolls 2d6: \d \+ \d = \d+/ });
    await rolled.waitFor();
    assert.equal(await rolled.locator(".name").textContent(), "Dice");
    await clara.sees(/Dice: Ben rolls 2d6/);
    await says(ben, "/roll 7d1000");
    await reads(ben, "#composer-note", "there are 1 to 20 dice");
    await says(ben, "/help");
    await reads(ben, "#composer-note", "/roll 2d6");
    await ben.locator("#text").fill("");

    // Time passes more quickly for Ada.
    await ada.evaluate(() => {
      const real = globalThis.setTimeout;
      globalThis.setTimeout = (f, ms, ...args) => real(f, ms > 20_000 && ms <= 30_000 ? 3000 : ms, ...args);
    });
    await says(ben, "/fade meet me at the pier");
    await reads(ben, "#log .message[data-fades] .mark", "Fades");
    await sees(ada, "meet me at the pier");
    await picture(ben, "topic");
    await says(ben, "at six");
    await sees(ada, "at six");
    await message(ada, "meet me at the pier").waitFor({ state: "detached" });
    await message(ada, "at six").locator(".name").waitFor({ state: "visible" }); // and not under another's name
    await says(ada, "/topic");
    await ben.locator("#room-about").waitFor({ state: "hidden" });
  },

  async "several people, in several rooms"({ visit, picture, stopLater, isChromium }) {
    const server = stopLater(await serve());
    const ada = await visit(server, "Ada Lund");
    const ben = await visit(server, "Ben Okafor");
    const noor = await visit(server, "Noor Haddad");
    const tom = await visit(server, "Tomasz", { room: "ideas" });
    const phone = { viewport: { width: 390, height: 700 }, deviceScaleFactor: 2, hasTouch: true, ...(isChromium ? { isMobile: true } : {}) };
    const ines = await visit(server, "Ines", phone);
    const clara = stopLater(await joinFromTerminal(server, "clara", "lobby"));
    await reads(ada, "#room-people", "5 here");
    await reads(ada, '#rooms a[href="#ideas"] .count', "1");
    await says(ada, "/topic Out on the spring tide");
    for (const page of [ben, noor, ines]) await reads(page, "#room-about", "Out on the spring tide");
    // Ada has been in the other room, so she is told of what is said there.
    await ada.locator('#rooms a[href="#ideas"]').click();
    await ada.locator("#stage[data-ready=ideas]").waitFor();
    await reads(ada, "#people", "Tomasz");
    await ada.locator('#rooms a[href="#lobby"]').click();
    await says(tom, "What about a map of the mooring places?");
    await says(tom, "With depths.");
    const lines = [
      [ada, "Good morning. The tide tables for next week are in."],
      [ben, "Nice. Spring tide on Thursday, so we go out at six?"],
      [ada, "Six is good."],
      [ada, "I would take the small boat: two of us, the tent, and the new sounding line."],
      [ines, "I can lend you a dry bag."],
      [noor, "Perfect. And bring two thermoses, please."],
    ];
    for (const [page, text] of lines) {
      await says(page, text);
      await sees(ada, text);
    }
    clara.writes("The forecast says 12 knots from the south-west, dry until noon.");
    for (const page of [ada, ben, noor, ines]) await sees(page, "The forecast says 12 knots from the south-west, dry until noon.");
    await says(ben, "Then I bring coffee and the charts.");
    await sees(noor, "Then I bring coffee and the charts.");
    await reads(ada, '#rooms a[href="#ideas"] .unread', "2");
    const at = async (page, text, x, y) => {
      const box = await message(page, text).locator(".text").boundingBox();
      await wander(page, [[box.x + x - 40, box.y + y - 20], [box.x + x, box.y + y]]);
    };
    await Promise.all([
      at(ben, "I can lend you a dry bag.", 290, 12),
      ...[ada, ines].map((page) => reads(page, ".cursor.on", "Ben Okafor")),
    ]);
    await at(noor, "Nice. Spring tide on Thursday, so we go out at six?", 480, 14);
    await Promise.all([
      noor.locator("#text").pressSequentially("See you at", { delay: 15 }),
      ...[ada, ines].map((page) => reads(page, "#typing.on", "Noor Haddad is writing")),
    ]);
    await picture(ada, "people-wide");
    await picture(ines, "people-narrow");
  },

  async "what the broker refuses is shown with its code, and can be sent again"({ visit, picture, stopLater }) {
    const server = stopLater(await serve());
    const ada = await visit(server, "Ada");
    const flood = 160; // above the messages a second that the broker takes
    await ada.evaluate((n) => {
      const text = document.querySelector("#text");
      for (let i = 1; i <= n; i++) {
        text.value = `wave ${i}`;
        document.querySelector("#composer").requestSubmit();
      }
    }, flood);
    const failed = ada.locator("#pending .message[data-state=failed]");
    await reads(ada, "#pending .message[data-state=failed] code", "rate_limited 304");
    await picture(ada, "refused");
    await ada.locator("#pending .message[data-state=sending]").first().waitFor({ state: "detached" });
    const before = await failed.count();
    assert.ok(before > 0 && before < flood, `${before} of ${flood} were refused`);
    const text = await failed.first().locator(".text").textContent();
    await failed.first().getByText("Send again").click();
    await sees(ada, text);
    await failed.first().getByText("Discard").click();
    await failed.nth(before - 2).waitFor({ state: "detached" });
  },

  async "on a phone"({ visit, picture, stopLater, isChromium }) {
    const server = stopLater(await serve());
    // The driver of Firefox has no fingers.
    const touch = (locator) => (isChromium ? locator.tap() : locator.click());
    const phone = { viewport: { width: 390, height: 780 }, deviceScaleFactor: 2, hasTouch: true, ...(isChromium ? { isMobile: true } : {}) };
    const ada = await visit(server, "Ada Lund", phone);
    const ben = await visit(server, "Ben Okafor");
    for (const [who, text] of talk) {
      await says(who === "Ada" ? ada : ben, text);
      await sees(ada, text);
    }
    const { scrollWidth, innerWidth } = await ada.evaluate(() => ({ scrollWidth: document.documentElement.scrollWidth, innerWidth }));
    assert.ok(scrollWidth <= innerWidth, `the page is ${scrollWidth} wide on ${innerWidth}`);
    const box = await ada.locator("#text").boundingBox();
    assert.ok(box.y + box.height <= 780, "the message box is in sight");
    const area = await ben.locator("#log").boundingBox();
    await Promise.all([
      reads(ada, ".cursor.on", "Ben Okafor"),
      wander(ben, [[area.x + 150, area.y + 40], [area.x + 300, area.y + 120]]),
    ]);
    await ben.locator("#text").pressSequentially("on my way", { delay: 20 });
    await picture(ada, "narrow-light");
    await ada.emulateMedia({ colorScheme: "dark" });
    await wander(ben, [[area.x + 290, area.y + 110]]);
    await picture(ada, "narrow-dark");
    await touch(ada.locator("#open-drawer"));
    await ada.locator("#people", { hasText: "Ben Okafor" }).waitFor({ state: "visible" });
    await picture(ada, "narrow-drawer");
    await touch(ada.locator('#rooms a[href="#ideas"]'));
    await reads(ada, "#room-name", "#ideas");
    await ada.locator("#drawer").waitFor({ state: "hidden" });
    // A finger shows where it taps.
    await touch(ada.locator("#open-drawer"));
    await touch(ada.locator('#rooms a[href="#lobby"]'));
    await ada.locator("#stage[data-ready=lobby]").waitFor();
    await Promise.all([reads(ben, ".cursor.on", "Ada Lund"), touch(ada.locator("#log .text").first())]);
  },
};
