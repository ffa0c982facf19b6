// What comes beside publish and subscribe: history and export, live, several publishes at once, flush, signals, disposal,
// ready/closed/once/log, the view as an external store.

import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { after, before, describe, it } from "node:test";

import { PromClient } from "@prom-hub/sdk";

import { PATIENCE, code, realHub, refused, within } from "./helpers.mjs";
import { newTopic, recorder } from "./suite.mjs";

describe("on a real hub", { timeout: 5 * PATIENCE }, () => {
  let hub;
  let c;
  const others = [];
  const client = (options) => {
    const made = new PromClient(hub.url, hub.token, options);
    others.push(made);
    return made;
  };
  before(async () => {
    hub = await realHub();
    c = client();
  });
  after(async () => {
    await Promise.all(others.map((made) => made.close()));
    await hub?.stop();
  });
  const filled = async (count) => {
    const topic = newTopic();
    await Promise.all(Array.from({ length: count }, (_, n) => c.publish(topic, n, { id: `${topic}-${n}`, key: `k${n % 2}` })));
    return topic;
  };
  const payloads = async (events, count = Infinity) => {
    const list = [];
    for await (const { payload } of events) if (list.push(payload) === count) break;
    return list;
  };
  const numbers = (from, to) => Array.from({ length: to - from }, (_, n) => from + n);

  for (const name of ["history", "export"]) {
    it(`${name}: all of a topic, over pages, from any position`, async () => {
      const topic = await filled(2_300);
      const read = (options) => within(name, payloads(c[name](topic, options)));
      assert.deepEqual(await read(), numbers(0, 2_300));
      assert.deepEqual(await read({ from: "afterSeq", afterSeq: 2_290 }), numbers(2_290, 2_300));
      assert.deepEqual(await read({ from: "afterId", afterId: `${topic}-2297` }), [2_298, 2_299]);
      assert.deepEqual(await read({ limit: 1_500 }), numbers(0, 1_500));
      assert.deepEqual(await read({ from: "afterSeq", afterSeq: 0, limit: 1 }), [0]);
      assert.deepEqual(await within("the start", payloads(c[name](topic), 3)), [0, 1, 2], "it can be left");
      const { value } = await c[name](topic).next();
      assert.deepEqual([value.topic, value.seq, value.id, value.key], [topic, 1, `${topic}-0`, "k0"]);
    });

    it(`${name}: what is refused, and a signal`, async () => {
      await refused("a pattern", () => c[name]("a.*").next(), "bad_topic");
      // The hub's words, not the number of a status.
      await assert.rejects(c[name](await filled(1), { from: "afterSeq", afterSeq: 1e9 }).next(), /afterSeq.* is (after|not in)/);
      await refused("a position", () => c[name](newTopic(), { from: "afterId", afterId: "nowhere" }).next(), "position_gone");
      const topic = await filled(10);
      const reason = new Error("enough");
      await assert.rejects(within("aborted", c[name](topic, { signal: AbortSignal.abort(reason) }).next()), reason);
      assert.deepEqual(await payloads(c[name](newTopic())), []);
    });
  }

  for (const name of ["history", "export"]) {
    it(`${name}: a signal ends it before the next event, with its reason and nothing else`, async () => {
      const topic = await filled(3000);
      const unhandled = [];
      const listener = (error) => unhandled.push(error);
      process.on("unhandledRejection", listener);
      const abort = new AbortController();
      const reason = new Error("enough");
      const got = [];
      const read = (async () => { for await (const event of c[name](topic, { signal: abort.signal })) if (got.push(event.seq) === 2) abort.abort(reason); })();
      await assert.rejects(within("the reading", read), reason);
      await new Promise((resolve) => setTimeout(resolve, 50));
      process.off("unhandledRejection", listener);
      assert.deepEqual([got, unhandled], [[1, 2], []]);
    });

    it(`${name}: causes are a list`, async () => {
      const topic = newTopic();
      await c.publish(topic, 1, { causedBy: "a" });
      await c.publish(topic, 2, { causedBy: ["a", "b"] });
      const causes = [];
      for await (const event of c[name](topic)) causes.push(event.causedBy, "caused_by" in event);
      assert.deepEqual(causes, [["a"], false, ["a", "b"], false]);
    });

    it(`${name}: events tell who published them`, async () => {
      const topic = newTopic();
      await c.publish(topic, { by: "root" });
      const by = [];
      for await (const event of c[name](topic)) by.push(event.by, event.payload.by);
      // The `sub` of the token that `prom dev` prints.
      assert.deepEqual(by, ["dev", "root"]);
    });

    it(`${name}: a client that is closed asks the hub nothing`, async () => {
      const topic = await filled(2500);
      const own = client();
      const begun = own[name](topic);
      assert.equal((await within("the first", begun.next())).value.payload, 0);
      await own.close();
      const rest = (async () => { for await (const _ of begun); })();
      await assert.rejects(within("the rest", rest), code("closed"));
      await assert.rejects(within("another", own[name](topic).next()), code("closed"));
    });
  }

  it("live: a handler gets what follows, in order, until it is closed", async () => {
    const topic = newTopic();
    const got = recorder();
    const subscription = await c.live(topic, (event) => got(event.payload));
    assert.equal(subscription.topic, topic);
    await Promise.all(numbers(0, 100).map((n) => c.publish(topic, n)));
    assert.deepEqual((await got.until(100)).flat(), numbers(0, 100));
    await subscription.close();
    await c.publish(topic, 100);
    assert.equal(got.calls.length, 100);
    const again = recorder();
    const second = await c.live(topic, (event) => again(event.payload), { from: "earliest", filter: { keys: ["none"] } });
    await second.close();
    assert.equal(again.calls.length, 0);
  });

  it("live: an iterator from a position, twice beside itself", async () => {
    const topic = await filled(5);
    const read = () => payloads(c.live(topic, { from: "afterSeq", afterSeq: 2 }), 3);
    assert.deepEqual(await within("both", Promise.all([read(), read()])), [[2, 3, 4], [2, 3, 4]]);
  });

  it("publishMany: answers in order, and the first error", async () => {
    const topic = newTopic();
    const answers = await c.publishMany(numbers(0, 500).map((n) => ({ topic, payload: n, options: { id: `${topic}-${n}` } })));
    assert.deepEqual(answers.map(({ seq }) => seq), numbers(1, 501));
    assert.deepEqual(await c.publishMany([]), []);
    await assert.rejects(c.publishMany([{ topic, payload: 1 }, { topic: "$audit", payload: 1 }]), (error) => code("forbidden")(error) && error.message.startsWith("events[1]: "));
    await assert.rejects(c.publishMany([{ topic, payload: 1 }, { topic, data: 1 }]), (error) =>
      code("bad_frame")(error) && error.message === "events[1].data is not an option; there are topic, payload, options");
    await assert.rejects(c.publishMany([{ topic, payload: 1 }, { topic }]), (error) => code("bad_payload")(error) && error.message === "events[1]: payload is undefined");
  });

  it("a signal that lives long is left alone by what has ended", async () => {
    const { signal } = new AbortController();
    const topic = newTopic();
    const own = client();
    const view = await own.watch(topic, { signal });
    const live = await own.live(topic, () => {}, { signal });
    const stream = own.live(topic, { signal });
    const events = own.events(topic, "g1", { signal });
    const open = [own.subscribe(topic, "g2", () => {}, { signal }), own.subscribe(topic, "g3", () => {}, { signal })];
    await within("all", Promise.all([...open, own.publish(topic, 1), stream.next(), events.next()]));
    assert.equal(getEventListeners(signal, "abort").length, 6);
    await within("the ends", Promise.all([view.close(), live.close(), stream.return(), events.return(), own.unsubscribe(topic, "g2")]));
    assert.equal(getEventListeners(signal, "abort").length, 1);
    await own.close();
    assert.equal(getEventListeners(signal, "abort").length, 0);
  });

  it("flush: what was called before it has its answer", async () => {
    const own = client();
    const topic = newTopic();
    let answered = 0;
    for (let n = 0; n < 200; n++) void own.publish(topic, n).then(() => answered++);
    await within("the flush", own.flush());
    assert.equal(answered, 200);
    await own.flush({ timeoutMs: 1_000 });
  });

  it("signals: a call given up rejects with the reason, and the client goes on", async () => {
    const reason = new Error("changed my mind");
    const aborted = AbortSignal.abort(reason);
    const calls = [(signal) => c.publish(newTopic(), 1, { signal }), (signal) => c.subscribe(newTopic(), "g", () => {}, { signal }), (signal) => c.watch(newTopic(), { signal }), (signal) => c.live(newTopic(), () => {}, { signal }), (signal) => c.flush({ signal })];
    for (const call of calls) await assert.rejects(within(String(call), call(aborted)), reason);
    const topic = newTopic();
    const controller = new AbortController();
    const got = recorder();
    await c.subscribe(topic, "g", (event) => got(event.payload), { signal: controller.signal, from: "earliest" });
    await c.publish(topic, 1);
    await got.until(1);
    controller.abort();
    await assert.rejects(c.unsubscribe(topic, "g"), code("not_subscribed"));
    assert.equal(c.state, "ready");
  });

  it("disposal: client, iterator, view and subscription", { skip: Symbol.asyncDispose === undefined }, async () => {
    const own = client();
    const topic = await filled(1);
    const view = await own.watch(topic);
    const live = await own.live(topic, () => {});
    const events = own.events(topic, "g", { from: "earliest" });
    await events.next();
    for (const each of [view, live, events]) await within("disposal", each[Symbol.asyncDispose]());
    assert.equal((await events.next()).done, true);
    const published = own.publish(topic, 1);
    await own[Symbol.asyncDispose]();
    assert.ok((await published).seq > 0, "the client drains");
    assert.equal(own.state, "closed");
  });

  it("ready, closed and once", async () => {
    const own = client();
    const state = own.once("state");
    assert.ok(own.closed instanceof Promise);
    await Promise.all([own.connect(), within("ready", own.ready())]);
    assert.equal((await state).state, "connecting");
    await own.close();
    assert.equal(await own.closed, undefined);
    await assert.rejects(own.ready(), code("closed"));
    const refusedOne = new PromClient(hub.url, "nonsense");
    others.push(refusedOne);
    await assert.rejects(refusedOne.connect(), code("jwt_invalid"));
    assert.equal((await within("closed", refusedOne.closed)).code, "jwt_invalid");
  });

  it("log: lines of text, never the token", async () => {
    const lines = [];
    const own = client({ log: (line) => lines.push(line) });
    await own.publish(newTopic(), 1);
    assert.ok(lines.length > 2 && lines.every((line) => typeof line === "string"));
    assert.ok(lines.some((line) => line.includes("PUBLISH")));
    assert.ok(!lines.some((line) => line.includes(hub.token)));
  });

  it("a view is an external store", async () => {
    const topic = await filled(2);
    const view = await c.watch(topic);
    const first = view.getSnapshot();
    assert.deepEqual(first.map(([key, { payload }]) => [key, payload]), [["k0", 0], ["k1", 1]]);
    assert.equal(view.getSnapshot(), first, "the same until something changes");
    const told = recorder();
    const off = view.subscribe(() => told());
    await c.publish(topic, 7, { key: "k1" });
    await told.until(1);
    assert.notEqual(view.getSnapshot(), first);
    assert.equal(view.getSnapshot().find(([key]) => key === "k1")[1].payload, 7);
    off();
    const calls = told.calls.length;
    const changed = recorder();
    view.subscribe(() => changed());
    await c.publish(topic, 8, { key: "k1" });
    await changed.until(1);
    assert.equal(told.calls.length, calls);
    await view.close();
  });
});
