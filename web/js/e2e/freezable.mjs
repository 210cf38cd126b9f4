// A page of Chromium's that can be hidden and frozen. Playwright keeps its own pages
// visible, and Chromium freezes hidden ones only, so this one is in a context that
// Playwright does not know, and is spoken to in the DevTools protocol.

const LIMIT_MS = 10_000; // for what the browser does by itself

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Attaches to a target; returns its `send`, and calls back with its events. */
async function attach(browser, targetId, on) {
  const { sessionId } = await browser.send("Target.attachToTarget", { targetId, flatten: false });
  const open = new Map();
  let last = 0;
  browser.on("Target.receivedMessageFromTarget", (e) => {
    if (e.sessionId !== sessionId) return;
    const { id, method, params, result, error } = JSON.parse(e.message);
    if (id === undefined) return on(method, params);
    const { resolve, reject } = open.get(id);
    open.delete(id);
    if (error) reject(new Error(error.message));
    else resolve(result);
  });
  return async (method, params = {}) => {
    const id = ++last;
    const answer = new Promise((resolve, reject) => open.set(id, { resolve, reject }));
    const message = JSON.stringify({ id, method, params });
    await browser.send("Target.sendMessageToTarget", { sessionId, message });
    return answer;
  };
}

/**
 * Opens a page that hides itself with `globalThis.hide(what)`, which freezes it too for
 * `what.ms` milliseconds, if they are given, and shows itself with `globalThis.show()`;
 * both give promises. `meanwhile(what)` runs while the page is hidden, and frozen.
 */
export async function openFreezable(playwright, url, meanwhile) {
  const browser = await playwright.newBrowserCDPSession();
  const { browserContextId } = await browser.send("Target.createBrowserContext");
  const create = async (address) => {
    const target = await browser.send("Target.createTarget", { url: address, browserContextId });
    return target.targetId;
  };
  const targetId = await create("about:blank");
  const send = await attach(browser, targetId, (method, params) => {
    if (method === "Runtime.bindingCalled") void obey(JSON.parse(params.payload));
  });

  /** The value of an expression, or of its promise. */
  async function evaluate(expression) {
    const { result, exceptionDetails: thrown } = await send("Runtime.evaluate", {
      expression,
      awaitPromise: true,
      returnByValue: true,
    });
    if (thrown) throw new Error(thrown.exception?.description ?? thrown.text);
    return result.value;
  }

  async function seen(state) {
    const end = Date.now() + LIMIT_MS;
    while ((await evaluate("document.visibilityState")) !== state) {
      if (Date.now() > end) throw new Error(`the page is not ${state}`);
      await sleep(20);
    }
  }

  const steps = {
    async hide(what) {
      await browser.send("Target.activateTarget", { targetId: await create("about:blank") });
      await seen("hidden");
      const frozen = what.ms !== undefined;
      if (frozen) await send("Page.setWebLifecycleState", { state: "frozen" });
      await meanwhile(what);
      if (!frozen) return;
      await sleep(what.ms);
      await send("Page.setWebLifecycleState", { state: "active" });
    },
    async show() {
      await browser.send("Target.activateTarget", { targetId });
      await seen("visible");
    },
  };

  async function obey({ step, what }) {
    const failure = await steps[step](what).then(
      () => "",
      (e) => e.message,
    );
    await evaluate(`obeyed(${JSON.stringify(failure)})`);
  }

  await send("Page.enable");
  await send("Runtime.enable");
  await send("Runtime.addBinding", { name: "ask" });
  await send("Page.navigate", { url });
  await evaluate(`{
    const step = (step) => (what) => new Promise((resolve, reject) => {
      globalThis.obeyed = (failure) => (failure ? reject(new Error(failure)) : resolve());
      ask(JSON.stringify({ step, what }));
    });
    globalThis.hide = step("hide");
    globalThis.show = step("show");
  }`);
  return {
    evaluate,
    close: () => browser.send("Target.disposeBrowserContext", { browserContextId }),
  };
}
