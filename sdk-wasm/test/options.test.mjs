// What is asked for wrongly is said at the call: the constructor's arguments, names of options, positions without their
// `from`, names that are no Unicode, and what is larger than a frame.

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, it } from "node:test";

import { PromClient } from "@prom-hub/sdk";

import { FakeHub } from "./fake-hub.mjs";
import { PATIENCE, code, fast, goesOn, notFunctions, notNumbers, notOptions, notStrings, refused, within } from "./helpers.mjs";
import { recorder } from "./suite.mjs";

const handler = () => {};
const url = "ws://127.0.0.1:9/";

describe("the constructor", { timeout: PATIENCE }, () => {
  const throws = (what, make, message) =>
    assert.throws(make, (error) => error instanceof TypeError && message.test(error.message) || assert.fail(`${what}: ${error}`), what);

  it("takes ws: and wss: URLs only", () => {
    for (const bad of ["http://localhost/", "nonsense", "", "//localhost", "ws:", "mailto:a@b"]) throws(bad, () => new PromClient(bad, "t"), /ws|URL/);
    for (const [kind, bad] of [["undefined", undefined], ...notStrings()]) {
      if (kind === "an object with toString") continue;
      throws(kind, () => new PromClient(bad, "t"), /url|URL/);
    }
    throws("a page's address", () => new PromClient(`${url}/#token=t`, "t"), /fragment/);
    assert.equal(new PromClient(new URL(url).href, "t").state, "idle");
  });

  it("takes a token that is a string or a function", () => {
    for (const [kind, bad] of [["undefined", undefined], ...notStrings()]) {
      if (typeof bad === "function") continue;
      throws(kind, () => new PromClient(url, bad), /token/);
    }
    throws("none at all", () => new PromClient(url), /token must be a string or a function, and is undefined/);
    throws("an empty one", () => new PromClient(url, ""), /token .* is empty/);
  });

  it("takes options by their names and types", () => {
    for (const [kind, bad] of notOptions()) throws(kind, () => new PromClient(url, "t", bad), /options/);
    for (const [kind, bad] of notNumbers()) {
      for (const name of ["timeoutMs", "reconnectMinMs", "reconnectMaxMs", "maxQueued", "maxQueuedBytes"]) {
        throws(`${name} ${kind}`, () => new PromClient(url, "t", { [name]: bad }), new RegExp(`options\\.${name}`));
      }
    }
    for (const [kind, bad] of notFunctions().slice(1)) {
      for (const name of ["WebSocket", "log"]) throws(`${name} ${kind}`, () => new PromClient(url, "t", { [name]: bad }), new RegExp(`options\\.${name}`));
    }
    for (const bad of [null, "yes", 1, {}]) throws("batch", () => new PromClient(url, "t", { batch: bad }), /options\.batch/);
    for (const given of ["timeout", "timoutMs", "websocket", "batches", "toString"]) {
      throws(given, () => new PromClient(url, "t", { [given]: 1 }), new RegExp(`options\\.${given} is not an option; there are timeoutMs, .*WebSocket`));
    }
    throws("a backoff that shrinks", () => new PromClient(url, "t", { reconnectMinMs: 100, reconnectMaxMs: 10 }), /options\.reconnectMinMs must not be above reconnectMaxMs/);
    throws("one beside the default", () => new PromClient(url, "t", { reconnectMinMs: 30_001 }), /reconnectMaxMs, by default 30000/);
    assert.equal(new PromClient(url, "t", { reconnectMaxMs: 10 }).state, "idle");
    const absent = Object.fromEntries(["timeoutMs", "reconnectMinMs", "maxQueued", "WebSocket", "batch", "log"].map((name) => [name, undefined]));
    assert.equal(new PromClient(url, "t", absent).state, "idle");
    assert.equal(new PromClient(url, "t", undefined).state, "idle");
  });

  it("keeps the options of the call, whatever happens to the object afterwards", async (t) => {
    const hub = await FakeHub.start();
    t.after(() => hub.stop());
    const options = { ...fast, timeoutMs: PATIENCE };
    const c = new PromClient(hub.url, "t", options);
    t.after(() => c.close());
    options.timeoutMs = 1;
    options.WebSocket = class {};
    await c.connect();
  });
});

describe("listeners", () => {
  it("are for events there are, and are functions", async () => {
    const c = new PromClient(url, "t");
    for (const bad of ["States", "", "toString", "constructor", "__proto__", "hasOwnProperty", undefined, null, 7, Symbol("state"), ["state"], {}]) {
      assert.throws(() => c.on(bad, () => {}), TypeError, `on ${String(bad)}`);
      await assert.rejects(c.once(bad), TypeError, `once ${String(bad)}`);
    }
    for (const [kind, bad] of notFunctions()) assert.throws(() => c.on("state", bad), TypeError, kind);
  });
});

describe("at the call", { timeout: 20 * PATIENCE }, () => {
  let hub;
  let c;
  const others = [];
  beforeEach(async () => {
    hub = await FakeHub.start();
    c = new PromClient(hub.url, "t");
    await c.connect();
  });
  afterEach(async () => {
    await Promise.all([c, ...others.splice(0)].map((client) => client?.close()));
    await hub.stop();
  });

  it("an option that is none is refused, with the one that was meant", async () => {
    const said = (given, meant) => new RegExp(`options\\.${given} is not an option; did you mean ${meant}\\?`);
    const calls = {
      publish: (options) => c.publish("a", 1, options),
      publishMany: (options) => c.publishMany([{ topic: "a", payload: 1, options }]),
      subscribe: (options) => c.subscribe("a", "g", handler, options),
      subscribeExactlyOnce: (options) => c.subscribeExactlyOnce("a", "g", { seen: async () => false, mark: async () => {} }, handler, options),
      events: (options) => c.events("a", "g", options).next(),
      watch: (options) => c.watch("a", options),
      live: (options) => c.live("a", handler, options),
      "live without a handler": (options) => c.live("a", options).next(),
      history: (options) => c.history("a", options).next(),
      export: (options) => c.export("a", options).next(),
      flush: (options) => c.flush(options),
      close: (options) => c.close(options),
    };
    const near = [
      ...["publish", "publishMany"].flatMap((call) => [[call, "kye", "key"], [call, "caused_by", "causedBy"], [call, "caused", "causedBy"], [call, "header", "headers"], [call, "tag", "tags"], [call, "timeout", "timeoutMs"], [call, "Id", "id"]]),
      ...["subscribe", "subscribeExactlyOnce", "events"].flatMap((call) => [[call, "form", "from"], [call, "maxInflight", "maxInFlight"], [call, "ackTimeout", "ackTimeoutMs"], [call, "max_attempts", "maxAttempts"], [call, "order", "ordered"], [call, "filters", "filter"], [call, "afterseq", "afterSeq"]]),
      ...["live", "live without a handler"].flatMap((call) => [[call, "form", "from"], [call, "filtre", "filter"]]),
      ["watch", "onchange", "onChange"],
      ["watch", "fliter", "filter"],
      ["history", "form", "from"],
      ["history", "limits", "limit"],
      ["export", "form", "from"],
      ["flush", "timeout", "timeoutMs"],
    ];
    const wrong = [];
    const check = (what, call, message) => refused(what, call, "bad_frame", message).catch((error) => wrong.push(error.message));
    for (const [call, given, meant] of near) await check(`${call} ${given}`, () => calls[call]({ [given]: 1 }), said(given, meant));
    // With nothing near it nothing is proposed; names that every object has are no options.
    for (const name of Object.keys(calls)) {
      await check(`${name} far`, () => calls[name]({ xylophone: 1 }), /options\.xylophone is not an option(?!.*did you mean)/);
      await check(`${name} toString`, () => calls[name]({ toString: 1 }), /options\.toString is not an option/);
      await check(`${name} undefined`, () => calls[name]({ xylophone: undefined }), /options\.xylophone is not an option/);
      assert.equal(c.state, "ready", name);
    }
    await check("filter", () => calls.subscribe({ filter: { kyes: ["k"] } }), /filter\.kyes is not an option; did you mean keys\?/);
    assert.deepEqual(wrong, []);
    await goesOn("unknown options", c, hub);
  });

  it("a position goes with its from", async () => {
    const calls = {
      subscribe: (options) => c.subscribe("a", "g", handler, options),
      events: (options) => c.events("a", "g", options).next(),
      live: (options) => c.live("a", handler, options),
      history: (options) => c.history("a", options).next(),
      export: (options) => c.export("a", options).next(),
    };
    const wrong = [];
    const check = (what, call, message) => refused(what, call, "bad_frame", message).catch((error) => wrong.push(error.message));
    for (const [name, call] of Object.entries(calls)) {
      for (const [option, value] of [["afterSeq", 3], ["afterSeq", 0], ["afterId", "x"], ["ts", 1]]) {
        const needs = new RegExp(`options\\.${option} needs from: "${option}"`);
        await check(`${name} ${option}`, () => call({ [option]: value }), needs);
        for (const from of ["earliest", "latest"]) await check(`${name} ${option} from ${from}`, () => call({ from, [option]: value }), needs);
        await check(`${name} from ${option} alone`, () => call({ from: option }), new RegExp(`options\\.${option}`));
      }
    }
    assert.deepEqual(wrong, []);
    await goesOn("positions", c, hub);
  });

  it("names are Unicode: half a character is refused, not replaced", async () => {
    const half = ["order-\ud83d", "order-\ude00", "\ud83d\ud83d\ude00", "\ude00\ud83d"];
    const wrong = [];
    const check = (what, call, wanted, message) => refused(what, call, wanted, message).catch((error) => wrong.push(error.message));
    for (const text of half) {
      for (const option of ["id", "key", "sid", "causedBy"]) await check(option, () => c.publish("a", 1, { [option]: text }), "bad_frame", new RegExp(`options\\.${option}`));
      await check("header", () => c.publish("a", 1, { headers: { h: text } }), "bad_frame", /options\.headers/);
      await check("header's name", () => c.publish("a", 1, { headers: { [text]: "v" } }), "bad_frame", /options\.headers/);
      await check("tag", () => c.publish("a", 1, { tags: ["t", text] }), "bad_frame", /options\.tags/);
      await check("afterId", () => c.subscribe("a", "g", handler, { from: "afterId", afterId: text }), "bad_frame", /options\.afterId/);
      await check("filter keys", () => c.watch("a", { filter: { keys: [text] } }), "bad_frame", /filter\.keys/);
      await check("filter tags", () => c.watch("a", { filter: { tags: [text] } }), "bad_frame", /filter\.tags/);
      await check("filter headers", () => c.watch("a", { filter: { headers: { h: text } } }), "bad_frame", /filter\.headers/);
      for (const [name, call] of [["publish", () => c.publish(text, 1)], ["subscribe", () => c.subscribe(text, "g", handler)], ["watch", () => c.watch(text)], ["live", () => c.live(text, handler)]]) {
        await check(`${name} topic`, call, "bad_frame", /topic/);
      }
      await check("group", () => c.subscribe("a", text, handler), "bad_frame", /group/);
    }
    assert.deepEqual(wrong, []);
    assert.equal(hub.of("PUBLISH").length, 0);
    await c.publish("a", 1, { id: "whole-😀", key: "😀", headers: { h: "😀" } });
    assert.equal(hub.of("PUBLISH")[0].opts.id, "whole-😀");
    await goesOn("halves", c, hub);
  });

  it("a reason with half a character still gives the event back", async () => {
    hub.publish("a", 1, { id: "e" });
    const { value } = await within("the delivery", c.events("a", "g", { from: "earliest" }).next());
    await value.nack({ reason: "not \ud83d whole" }).catch((error) => code("bad_frame")(error) || assert.fail(String(error)));
    assert.equal(typeof (hub.of("NACK")[0]?.reason ?? "refused"), "string");
    await goesOn("a reason", c, hub);
  });

  it("a payload over the frame is too large, and not to be tried again", async () => {
    for (const size of [1024 * 1024, 5 * 1024 * 1024, 20 * 1024 * 1024]) {
      await refused(`${size} bytes`, () => c.publish("a", "x".repeat(size)), "too_large", /payload|bytes|frame|large/);
    }
    // Bytes count, not characters; and so do escapes.
    await refused("wide", () => c.publish("a", "ü".repeat(600 * 1024)), "too_large");
    await refused("escapes", () => c.publish("a", "\u0001".repeat(200 * 1024)), "too_large");
    await refused("a list", () => c.publish("a", Array(300_000).fill("abcd")), "too_large");
    await goesOn("large payloads", c, hub);
    // Before the module is loaded, while it connects, and while it is away.
    const early = new PromClient(hub.url, "t", fast);
    others.push(early);
    await refused("early", () => early.publish("a", "x".repeat(20 * 1024 * 1024)), "too_large");
    assert.equal(hub.tooLarge, 0, "it is not sent");
    await hub.stop();
    await refused("away", () => early.publish("a", "x".repeat(20 * 1024 * 1024)), "too_large");
    hub = await FakeHub.start();
  });

  it("a SUBSCRIBE over the frame is refused by what made it large", async () => {
    const got = recorder();
    await c.subscribe("other", "g", (event) => got(event.payload));
    const keys = Array.from({ length: 2_100 }, (_, n) => `${n}`.padEnd(512, "k"));
    const headers = Object.fromEntries(Array.from({ length: 2_000 }, (_, n) => [`h${n}`, "v".repeat(1_000)]));
    for (const filter of [{ keys }, { headers }, { tags: Array(40_000).fill("t".repeat(60)) }]) {
      const calls = [() => c.subscribe("a", "g", handler, { filter }), () => c.watch("a", { filter }), () => c.live("a", handler, { filter }), () => c.events("a", "g", { filter }).next()];
      for (const [n, call] of calls.entries()) {
        const error = await within("the refusal", Promise.resolve().then(call)).catch((thrown) => thrown);
        assert.ok(["bad_frame", "too_large"].includes(error?.code), `${n}: ${error}`);
        assert.match(error.message, /filter/);
        assert.equal(error.retryable, false);
      }
    }
    await c.publish("other", "goes on");
    await got.until(1);
    await goesOn("large filters", c, hub);
  });

  it("a token over its frame is refused by name, whoever gives it", async () => {
    const long = "t".repeat(20 * 1024);
    for (const token of [long, () => long, async () => long]) {
      const other = new PromClient(hub.url, token, { ...fast, timeoutMs: 1_000 });
      others.push(other);
      const states = recorder();
      other.on("state", ({ error }) => states(error?.message ?? ""));
      await assert.rejects(within("connect", other.connect()), (error) => /token/.test(error.message) && /16|bytes|long|large/.test(error.message) || assert.fail(`${error.code}: ${error.message}`));
    }
    assert.equal(hub.tooLarge, 0, "it is not sent");
    await goesOn("a long token", c, hub);
  });

  it("a long token at a renewal leaves the connection as it is", async () => {
    hub.expiresInMs = 2_000;
    let asked = 0;
    const other = new PromClient(hub.url, () => (asked++ === 0 ? "short" : "t".repeat(20 * 1024)), fast);
    others.push(other);
    const errors = recorder();
    other.on("error", (error) => errors(error.message));
    await other.connect();
    await errors.until((calls) => calls.some(([message]) => /token/.test(message)));
    assert.equal(other.state, "ready");
    assert.ok((await other.publish("a", 1)).seq > 0);
  });

  it("a token provider that gives or throws anything is asked again", async () => {
    const boom = () => {
      throw 1;
    };
    const odd = [() => undefined, () => 7, () => ({}), () => { throw Object.create(null); }, () => { throw Object.assign(new Error(), { message: ["m"] }); }, () => { throw { toString: boom }; }, () => Promise.reject(undefined), () => ({ then: boom }), () => { throw Object.defineProperty(new Error(), "message", { get: boom }); }];
    for (const [n, first] of odd.entries()) {
      let asked = 0;
      const other = new PromClient(hub.url, () => (asked++ === 0 ? first() : "t"), fast);
      others.push(other);
      await within(`provider ${n}`, other.connect());
      assert.equal(asked, 2, `provider ${n}`);
    }
  });

  it("a WebSocket constructor that throws anything is tried again", async () => {
    const { WebSocket } = await import("ws");
    const odd = [undefined, Object.create(null), Object.assign(new Error(), { message: {} }), Symbol("s"), 7n, { toString: () => { throw 1; } }];
    for (const [n, thrown] of odd.entries()) {
      let made = 0;
      class Odd extends WebSocket {
        constructor(...args) {
          if (made++ === 0) throw thrown;
          super(...args);
        }
      }
      const other = new PromClient(hub.url, "t", { ...fast, WebSocket: Odd });
      others.push(other);
      await within(`constructor ${n}`, other.connect());
    }
  });
});
