// What is there beside publish and subscribe: the past, live events, several at once, signals, disposal, waiting for states.

import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach, describe, it } from "node:test";

import { HubError, PromClient } from "@prom-hub/sdk";

import { FakeHub } from "./fake-hub.mjs";
import { PATIENCE, code, fast, realHub, turn, within } from "./helpers.mjs";
import { newTopic, recorder } from "./suite.mjs";

describe("on a hub", { timeout: 3 * PATIENCE }, () => {
  let hub;
  let c;
  const others = [];
  const client = (options, token = "t") => {
    const made = new PromClient(hub.url, token, options);
    others.push(made);
    return made;
  };
  beforeEach(async () => {
    hub = await FakeHub.start();
    c = client(fast);
  });
  afterEach(async () => {
    await Promise.all(others.splice(0).map((one) => one.close()));
    await hub.stop();
  });

  it("live events come in order to a handler, without a group, until it is closed", async () => {
    const got = recorder();
    const live = await c.live("a", (event) => got(event.payload));
    assert.equal(live.topic, "a");
    for (const n of [1, 2, 3]) hub.publish("a", n);
    await got.until(3);
    await live.close();
    await live.close();
    hub.publish("a", 4);
    await c.publish("b", 1);
    assert.deepEqual(got.calls.flat(), [1, 2, 3]);
    assert.equal(hub.of("SUBSCRIBE")[0].group, undefined);
    assert.equal(hub.of("ACK").length, 0);
  });

  it("live events can be taken from an iterator, which is left by break", async () => {
    await c.connect();
    const seen = [];
    const events = c.live("a");
    await hub.until(() => hub.of("SUBSCRIBE").length === 1);
    for (const n of [1, 2, 3]) hub.publish("a", n);
    for await (const event of events) {
      seen.push(event.payload);
      if (seen.length === 2) break;
    }
    assert.deepEqual(seen, [1, 2]);
    assert.deepEqual(await events.next(), { value: undefined, done: true });
    await hub.until(() => hub.of("UNSUBSCRIBE").length === 1);
  });

  it("publishMany keeps the order, answers all, and rejects with the first error", async () => {
    const answers = await c.publishMany([{ topic: "a", payload: 1 }, { topic: "b", payload: 2, options: { key: "k" } }, { topic: "a", payload: 3 }]);
    assert.deepEqual(answers.map(({ seq }) => seq), [1, 1, 2]);
    assert.equal(hub.of("PUBLISH")[1].opts.key, "k");
    await assert.rejects(c.publishMany([{ topic: "a", payload: 4 }, { topic: "a..b", payload: 5 }]), code("bad_topic"));
    assert.deepEqual(await c.publishMany([]), []);
  });

  it("flush waits for what was called before it, and for nothing else", async () => {
    await c.connect();
    const held = [];
    hub.intercept = (frame, from) => frame.op === "PUBLISH" && held.push(() => hub.answer(frame, from)) > 0;
    const first = c.publish("a", 1);
    const flushed = recorder();
    const flush = c.flush().then(flushed);
    void c.publish("a", 2).catch(() => undefined);
    await hub.until(() => held.length === 2);
    assert.equal(flushed.calls.length, 0);
    held[0]();
    await within("the flush", flush);
    await first;
    await assert.rejects(c.flush({ timeoutMs: 5 }), code("timeout"));
    await assert.rejects(c.flush({ signal: AbortSignal.timeout(5) }), { name: "TimeoutError" });
  });

  it("a turn's publishes leave as one message where the hub agrees, and each alone where it does not", async () => {
    await c.connect();
    await Promise.all([1, 2, 3].map((n) => c.publish("a", n)));
    assert.deepEqual(hub.messages.at(-1).map(({ op }) => op), ["PUBLISH", "PUBLISH", "PUBLISH"]);
    await c.subscribe("a", "g", () => {}, { from: "earliest" });
    await hub.until(() => hub.of("ACK").length === 3);
    assert.deepEqual(hub.messages.at(-1).map(({ op }) => op), ["ACK", "ACK", "ACK"]);
    const large = "x".repeat(40_000);
    await Promise.all([large, large, large].map((text) => c.publish("a", text)));
    assert.ok(hub.messages.every((message) => JSON.stringify(message).length < 70_000));

    const plain = client({ batch: false });
    await Promise.all([1, 2].map((n) => plain.publish("p", n)));
    assert.equal(hub.messages.filter((message) => message.some(({ topic }) => topic === "p")).length, 2);
    hub.batch = false;
    const old = client();
    await Promise.all([1, 2].map((n) => old.publish("o", n)));
    assert.equal(hub.messages.filter((message) => message.some(({ topic }) => topic === "o")).length, 2);
  });

  it("a signal ends a wait, a subscription, an iterator and a view", async () => {
    const reason = new Error("enough");
    const abort = () => {
      const controller = new AbortController();
      return { signal: controller.signal, abort: () => controller.abort(reason) };
    };
    const same = (error) => error === reason;
    await assert.rejects(c.publish("a", 1, { signal: AbortSignal.abort(reason) }), same);
    assert.equal(hub.of("PUBLISH").length, 0);
    hub.intercept = ({ op }) => op === "PUBLISH";
    const one = abort();
    const waiting = c.publish("a", 1, { signal: one.signal });
    await hub.until(() => hub.of("PUBLISH").length === 1);
    one.abort();
    await assert.rejects(waiting, same);

    const two = abort();
    await c.subscribe("a", "g", () => {}, { signal: two.signal });
    const iterator = c.events("a", "h", { signal: two.signal });
    const next = iterator.next();
    const live = c.live("a", { signal: two.signal }).next();
    await c.watch("a", { signal: two.signal });
    await c.live("a", () => {}, { signal: two.signal });
    two.abort();
    assert.deepEqual([(await next).done, (await live).done], [true, true]);
    await hub.until(() => hub.of("UNSUBSCRIBE").length === 5);

    // One that comes while the hub has not answered takes back what is confirmed later.
    const three = abort();
    const held = [];
    hub.intercept = (frame, from) => frame.op === "SUBSCRIBE" && held.push(() => hub.answer(frame, from)) > 0;
    const late = c.subscribe("late", "g", () => {}, { signal: three.signal });
    await hub.until(() => held.length === 1);
    three.abort();
    await assert.rejects(late, same);
    held[0]();
    await hub.until(() => hub.of("UNSUBSCRIBE").some(({ topic }) => topic === "late"));
  });

  it("client, iterator, view and subscription can be disposed of", { skip: !Symbol.asyncDispose }, async () => {
    const view = await c.watch("a");
    const live = await c.live("a", () => {});
    const iterator = c.events("a", "g");
    await hub.until(() => hub.of("SUBSCRIBE").length === 3);
    for (const one of [view, live, iterator]) await one[Symbol.asyncDispose]();
    await hub.until(() => hub.of("UNSUBSCRIBE").length === 3);
    const published = c.publish("a", 1);
    await c[Symbol.asyncDispose]();
    assert.equal((await published).seq, 1);
    assert.equal(c.state, "closed");
  });

  it("ready waits for a connection, closed for the end, once for the next event", async () => {
    const state = c.once("state");
    await within("ready", c.ready());
    assert.equal((await state).state, "connecting");
    await c.ready();
    hub.cut();
    await c.once("state");
    await within("ready again", c.ready());
    await c.close();
    assert.equal(await c.closed, undefined);
    await assert.rejects(c.ready(), code("closed"));

    hub.refused.set("bad", "jwt_invalid");
    const refused = client(fast, "bad");
    await assert.rejects(refused.ready(), code("jwt_invalid"));
    assert.equal((await refused.closed).code, "jwt_invalid");
    const unused = client();
    await unused.close();
    assert.equal(await unused.closed, undefined);
  });

  it("a log has a line for each frame and state, and no token", async () => {
    const lines = [];
    const one = client({ log: (line) => lines.push(line) }, "secret-token");
    await one.publish("a", 1);
    await one.close();
    assert.ok(lines.some((line) => line.startsWith("> {\"op\":\"PUBLISH\"")) && lines.some((line) => line.startsWith("< {\"op\":\"OK\"")) && lines.includes("-- ready"), lines.join("\n"));
    assert.ok(!lines.some((line) => line.includes("secret")));
    const failing = client({ log: () => { throw new Error("no"); } });
    await failing.publish("a", 1);
  });

  it("a view is an external store: its snapshot is the same until something changes", async () => {
    hub.publish("a", 1, { key: "x" });
    const view = await c.watch("a");
    const first = view.getSnapshot();
    assert.equal(view.getSnapshot(), first);
    assert.deepEqual(first.map(([key, { payload }]) => [key, payload]), [["x", 1]]);
    const changes = recorder();
    const off = view.subscribe(changes);
    hub.publish("a", 2, { key: "y" });
    await changes.until(1);
    assert.notEqual(view.getSnapshot(), first);
    assert.equal(view.getSnapshot().length, 2);
    off();
    hub.publish("a", 3, { key: "y" });
    await c.publish("b", 1);
    assert.equal(changes.calls.length, 1);
    const seen = [];
    view.forEach((event, key, map) => seen.push([key, event.payload, map === view]));
    assert.deepEqual(seen, [["x", 1, true], ["y", 3, true]]);
  });
});

describe("the past, on a real hub", { timeout: 3 * PATIENCE }, () => {
  let hub;
  let c;
  before(async () => {
    hub = await realHub();
    c = new PromClient(hub.url, hub.token);
  });
  after(async () => {
    await c?.close();
    await hub?.stop();
  });
  const all = async (events) => {
    const payloads = [];
    for await (const event of events) payloads.push(event.payload);
    return payloads;
  };

  it("is read page by page and as one stream, from anywhere, as far as is wanted", async () => {
    const topic = newTopic();
    const count = 2_345;
    const published = await Promise.all(Array.from({ length: count }, (_, n) => c.publish(topic, n, { key: `k${n}` })));
    const numbers = Array.from({ length: count }, (_, n) => n);
    for (const read of ["history", "export"]) {
      assert.deepEqual(await all(c[read](topic)), numbers, read);
      assert.deepEqual(await all(c[read](topic, { from: "afterSeq", afterSeq: 2_340 })), numbers.slice(2_340), read);
      assert.deepEqual(await all(c[read](topic, { from: "afterId", afterId: published[9].id, limit: 3 })), [10, 11, 12], read);
      assert.deepEqual(await all(c[read](topic, { from: "latest" })), [], read);
      assert.deepEqual(await all(c[read](topic, { limit: 0 })), [], read);
      assert.equal((await all(c[read](topic, { limit: 1_001 }))).length, 1_001, read);
      for await (const event of c[read](topic)) {
        assert.deepEqual([event.seq, event.key, event.topic], [1, "k0", topic]);
        break;
      }
      assert.deepEqual(await all(c[read](newTopic())), [], read);
    }
  });

  it("is refused as everything else, with the hub's code", async () => {
    for (const read of ["history", "export"]) {
      const one = (topic, options) => all(c[read](topic, options));
      await assert.rejects(one("a..b"), code("bad_topic"), read);
      await assert.rejects(one("a.*"), (error) => error instanceof HubError, read);
      await assert.rejects(one("a", { from: "afterId", afterId: "nowhere" }), code("position_gone"), read);
      await assert.rejects(one("a", { signal: AbortSignal.abort(new Error("enough")) }), /enough/, read);
      const other = new PromClient(hub.url, "nonsense");
      await assert.rejects(all(other[read]("a")), code("jwt_invalid"), read);
      await other.close();
      const nowhere = new PromClient("ws://127.0.0.1:9/", hub.token);
      await assert.rejects(all(nowhere[read]("a")), code("connection_lost"), read);
      await nowhere.close();
    }
    await turn();
    assert.equal((await c.publish(newTopic(), 1)).seq, 1);
  });
});
