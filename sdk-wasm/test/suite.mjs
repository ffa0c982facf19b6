/**
 * What every hub and client must do together: run on the fake hub here, on the real one by `hub.test.mjs`, in a page by
 * the end-to-end tests. `start()` gives `{ url, token, stop }`; topics are new for each test, so a hub may be shared.
 */

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { inspect } from "node:util";

/** Deadline of every wait, in ms: far beyond what is waited for. */
const PATIENCE = Number(process.env.TEST_PATIENCE ?? 60_000);

/** Collects calls and lets a test wait for them. */
export function recorder() {
  const calls = [];
  const waiting = new Set();
  const record = (...call) => {
    calls.push(call);
    for (const check of [...waiting]) check();
  };
  /** Resolves when so many calls were recorded, or when `condition` holds. */
  record.until = (condition) =>
    new Promise((resolve, reject) => {
      const over = setTimeout(() => {
        waiting.delete(check);
        reject(new Error(`waited ${PATIENCE} ms for ${condition}; there were ${calls.length} calls, the last ${inspect(calls.slice(-5))}`));
      }, PATIENCE);
      const check = () => {
        const met = typeof condition === "number" ? calls.length >= condition : condition(calls);
        if (!met) return;
        waiting.delete(check);
        clearTimeout(over);
        resolve(calls);
      };
      waiting.add(check);
      check();
    });
  record.calls = calls;
  return record;
}

let topics = 0;
export const newTopic = () => `test.t${Date.now().toString(36)}-${topics++}`;

export function suite(name, { PromClient, HubError }, start) {
  describe(name, () => {
    let hub;
    const clients = [];
    const client = (options) => {
      const made = new PromClient(hub.url, hub.token, options);
      clients.push(made);
      return made;
    };
    before(async () => {
      hub = await start();
    });
    after(async () => {
      await Promise.all(clients.map((made) => made.close()));
      await hub?.stop();
    });
    const code = (wanted) => (error) => error instanceof HubError && error.code === wanted;

    it("connects, publishes and tells the position", async () => {
      const c = client();
      assert.equal(c.state, "idle");
      const states = recorder();
      c.on("state", ({ state }) => states(state));
      await c.connect();
      assert.equal(c.state, "ready");
      assert.deepEqual(states.calls.flat(), ["connecting", "ready"]);
      const topic = newTopic();
      const first = await c.publish(topic, { a: 1 });
      assert.match(first.id, /^[0-9a-f]{8}-[0-9a-f]{4}-7/);
      assert.deepEqual([first.seq, first.duplicate], [1, false]);
      assert.equal((await c.publish(topic, null)).seq, 2);
    });

    it("recognises a repeated id", async () => {
      const c = client();
      const topic = newTopic();
      const first = await c.publish(topic, 1, { id: `${topic}-x` });
      const again = await c.publish(topic, 1, { id: `${topic}-x` });
      assert.deepEqual(again, { ...first, duplicate: true });
    });

    it("gives events to a handler with everything the publisher said", async () => {
      const c = client();
      const topic = newTopic();
      const got = recorder();
      await c.subscribe(topic, "g", (event, ctx) => got(event, ctx));
      const options = { key: "k", sid: "s", headers: { h: "ü\n" }, tags: ["t"], causedBy: ["c", "d"] };
      const payload = { text: "ä\"\\\u2028😀", n: [0, -1.5, 1e21, 9007199254740991], no: null };
      await c.publish(topic, payload, options);
      const [[event, ctx]] = await got.until(1);
      assert.deepEqual(event.payload, payload);
      assert.equal(event.topic, topic);
      for (const [name, value] of Object.entries(options)) assert.deepEqual(event[name], value);
      assert.equal("caused_by" in event, false);
      const one = await c.publish(topic, 1, { causedBy: "c" });
      assert.deepEqual((await got.until(2)).map(([{ id, causedBy }]) => id === one.id && causedBy).at(-1), ["c"]);
      assert.deepEqual([ctx.attempt, ctx.redelivered], [1, false]);
      assert.ok(ctx.ackDeadlineMs > 0 && ctx.ackDeadlineMs <= 30_000);
    });

    it("gives an event back when its handler throws", async () => {
      const c = client();
      const topic = newTopic();
      const attempts = recorder();
      await c.subscribe(topic, "g", (event, ctx) => {
        attempts(ctx.attempt);
        if (ctx.attempt === 1) throw new Error("not today");
      });
      await c.publish(topic, 1);
      assert.deepEqual((await attempts.until(2)).flat(), [1, 2]);
    });

    it("hands out deliveries to settle by hand", async () => {
      const c = client();
      const topic = newTopic();
      const seen = [];
      for (let n = 0; n < 3; n++) await c.publish(topic, n);
      for await (const delivery of c.events(topic, "g", { from: "earliest" })) {
        seen.push([delivery.event.payload, delivery.ctx.attempt]);
        if (delivery.event.payload === 1 && delivery.ctx.attempt === 1) await delivery.nack({ reason: "again", delayMs: 0 });
        else {
          await delivery.ctx.extend(60_000);
          await delivery.ack();
        }
        if (seen.length === 4) break;
      }
      assert.deepEqual(seen.map(([payload]) => payload).sort(), [0, 1, 1, 2]);
    });

    it("tells an acknowledgement without a lease", async () => {
      const c = client();
      const topic = newTopic();
      await c.publish(topic, 1);
      const deliveries = c.events(topic, "g", { from: "earliest" });
      const { value } = await deliveries.next();
      await value.ack();
      await deliveries.return();
      await assert.rejects(value.ack(), code("stale_lease"));
    });

    it("watches: snapshot, then changes", async () => {
      const c = client();
      const topic = newTopic();
      await c.publish(topic, { v: 1 }, { key: "a" });
      await c.publish(topic, { v: 2 }, { key: "a" });
      await c.publish(topic, { v: 3 }, { key: "b" });
      const changes = recorder();
      const view = await c.watch(topic, { onChange: (event) => changes(event?.payload.v) });
      assert.deepEqual([...view.keys()].sort(), ["a", "b"]);
      assert.equal(view.get("a").payload.v, 2);
      assert.equal(changes.calls.at(-1)[0], undefined);
      await c.publish(topic, { v: 4 }, { key: "b" });
      await changes.until((calls) => calls.at(-1)[0] === 4);
      assert.deepEqual([view.size, view.has("b"), view.get("b").payload.v], [2, true, 4]);
      await view.close();
    });

    it("watches an empty topic", async () => {
      const view = await client().watch(newTopic());
      assert.equal(view.size, 0);
    });

    it("ends a subscription and takes it up again where it was", async () => {
      const c = client();
      const topic = newTopic();
      const first = recorder();
      await c.subscribe(topic, "g", (event) => first(event.payload), { from: "earliest" });
      await assert.rejects(c.subscribe(topic, "g", () => {}), code("already_subscribed"));
      await c.publish(topic, 1);
      await first.until(1);
      await c.unsubscribe(topic, "g");
      await assert.rejects(c.unsubscribe(topic, "g"), code("not_subscribed"));
      await c.publish(topic, 2);
      const second = recorder();
      await c.subscribe(topic, "g", (event) => second(event.payload), { from: "earliest" });
      assert.deepEqual((await second.until(1)).flat(), [2]);
    });

    it("refuses what is not JSON before it is sent", async () => {
      const c = client();
      const cycle = {};
      cycle.self = cycle;
      const bad = [undefined, () => 1, Symbol("s"), NaN, Infinity, 1n, cycle, { a: [NaN] }, [undefined], { f() {} }, new Map(), { s: new Set() }];
      for (const payload of bad) await assert.rejects(c.publish(newTopic(), payload), code("bad_payload"));
      const topic = newTopic();
      await c.publish(topic, { at: new Date(0), gone: undefined });
      const { value } = await c.events(topic, "g", { from: "earliest" }).next();
      assert.deepEqual(value.event.payload, { at: "1970-01-01T00:00:00.000Z" });
    });

    it("refuses names and sizes before they are sent", async () => {
      const c = client();
      await assert.rejects(c.publish("a..b", 1), code("bad_topic"));
      await assert.rejects(c.publish("a.*", 1), code("bad_topic"));
      await assert.rejects(c.subscribe("a", "$live-1", () => {}), code("bad_topic"));
      await assert.rejects(c.subscribe("a", "", () => {}), code("bad_topic"));
      await assert.rejects(c.publish("a", "x".repeat(1024 * 1024)), code("too_large"));
      assert.equal((await c.publish(newTopic(), 1)).seq, 1, "the connection goes on");
    });

    it("carries many publishes and deliveries at once", async () => {
      const c = client();
      const topic = newTopic();
      const count = 2000;
      const got = recorder();
      await c.subscribe(topic, "g", (event) => got(event.payload), { from: "earliest" });
      const published = await Promise.all(Array.from({ length: count }, (_, n) => c.publish(topic, n)));
      assert.deepEqual(published.map(({ seq }) => seq), Array.from({ length: count }, (_, n) => n + 1));
      const seen = new Set((await got.until(count)).flat());
      assert.equal(seen.size, count);
    });

    it("drains: running handlers finish and are acknowledged", async () => {
      const c = client();
      const topic = newTopic();
      let finish;
      const started = recorder();
      await c.subscribe(topic, "g", async () => {
        started();
        await new Promise((resolve) => (finish = resolve));
      }, { from: "earliest" });
      await c.publish(topic, 1);
      await started.until(1);
      const closing = c.close({ drain: true });
      // Handlers may publish while they are waited for, so nobody's publish is refused until they are done.
      finish();
      await closing;
      assert.equal(c.state, "closed");
      await assert.rejects(c.publish(topic, 2), code("closed"));
      const next = client();
      await next.publish(topic, 3);
      const { value } = await next.events(topic, "g").next();
      assert.equal(value.event.payload, 3, "the first is not delivered again");
    });

    it("answers everything that is open when it closes", async () => {
      const c = client();
      await c.connect();
      const closing = c.close();
      await assert.rejects(c.publish(newTopic(), 1), code("closed"));
      await assert.rejects(c.connect(), code("closed"));
      await closing;
      await c.close();
    });
  });
}
