// Beginning and end: of handlers whose group is left, of whatever takes a signal, of the module itself; and the past.

import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach, describe, it } from "node:test";

import { HubError, PromClient } from "@prom-hub/sdk";

import { FakeHub } from "./fake-hub.mjs";
import { PATIENCE, code, fast, goesOn, realHub, runChild, turn, within } from "./helpers.mjs";
import { newTopic, recorder } from "./suite.mjs";

const boom = () => {
  throw new Error("boom");
};

describe("a client", { timeout: 3 * PATIENCE }, () => {
  let hub;
  let c;
  const others = [];
  const client = (options) => {
    const made = new PromClient(hub.url, "t", options);
    others.push(made);
    return made;
  };
  /** Something that is finished by hand. */
  const gate = () => {
    let open;
    const opened = new Promise((resolve) => (open = resolve));
    return { open, opened };
  };
  beforeEach(async () => {
    hub = await FakeHub.start();
    c = client(fast);
    await c.connect();
  });
  afterEach(async () => {
    await Promise.all(others.splice(0).map((one) => one.close()));
    await hub.stop();
  });

  it("acknowledges once, whatever a handler returns", async () => {
    const twice = { then: (resolve, reject) => { resolve(1); reject(new Error("too late")); resolve(2); } };
    const values = [undefined, null, 0, "", {}, [], Symbol("s"), 1n, new Proxy({}, {}), () => 1, Promise.resolve(Symbol("s")), twice, { then: 7 }, Object.create(null)];
    for (const [n, value] of values.entries()) {
      await c.subscribe(`t${n}`, "g", () => value, { from: "earliest" });
      hub.publish(`t${n}`, 1);
      await hub.until(() => hub.of("ACK").length === n + 1);
    }
    await goesOn("answers", c, hub);
    assert.deepEqual([hub.of("ACK").length, hub.of("NACK").length], [values.length, 0]);
  });

  it("takes what a live handler or a listener throws for an error event, and no more", async () => {
    const errors = recorder();
    c.on("error", (error) => errors(error.code, error.cause instanceof Error));
    c.on("state", boom);
    c.on("error", boom);
    await c.live("a", boom);
    await c.live("a", async () => boom());
    await c.watch("a", { onChange: boom });
    hub.publish("a", 1, { key: "k" });
    await errors.until(4);
    assert.ok(errors.calls.every(([name, caused]) => name === "listener_failed" && caused), String(errors.calls));
    await goesOn("listeners", c, hub);
  });

  it("a client that is closed can be collected, with all that its functions hold", async () => {
    assert.deepEqual(await runChild("collected.mjs"), { exit: 0, signal: null, output: "" });
  });

  it("lets a handler finish whose group is left, and a new member of the name waits for it", async () => {
    const { open, opened } = gate();
    const got = recorder();
    await c.subscribe("a", "g", async (event) => {
      got("first", event.payload);
      await opened;
    });
    hub.publish("a", 1);
    await got.until(1);
    await c.unsubscribe("a", "g");
    const again = c.subscribe("a", "g", (event) => got("second", event.payload));
    hub.publish("a", 2);
    await turn();
    assert.equal(hub.of("SUBSCRIBE").length, 1);
    open();
    await within("the new member", again);
    await got.until(2);
    assert.deepEqual(got.calls, [["first", 1], ["second", 2]]);
    assert.equal(hub.of("NACK").length, 0);
  });

  it("ends by a signal a wait, a subscription, an iterator and a view", async () => {
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

  it("settles everything when its module fails, and the next client works", async (t) => {
    t.mock.method(console, "error", () => {});
    const { WebSocket } = await import("ws");
    let socket;
    class Odd extends WebSocket {
      constructor(...args) {
        super(...args);
        socket = this;
      }
      addEventListener(name, listener, options) {
        // What the engine would report as an uncaught error.
        super.addEventListener(name, (event) => { try { listener(event); } catch { /* the module is gone */ } }, options);
        if (name === "message") this.deliver = listener;
      }
    }
    const one = client({ WebSocket: Odd });
    await one.connect();
    hub.intercept = ({ op }) => op === "PUBLISH" || op === "SUBSCRIBE";
    const open = [one.publish("a", 1), one.subscribe("a", "g", () => {}), one.events("a", "h").next(), one.watch("a")];
    await hub.until(() => hub.of("SUBSCRIBE").length === 3);
    // No WebSocket gives such data: the library underneath takes it for impossible.
    assert.throws(() => socket.deliver({ data: { no: "data" } }));
    for (const result of await within("the calls", Promise.allSettled(open))) assert.equal(result.reason?.code, "internal");
    assert.equal(one.state, "closed");
    assert.equal((await one.closed).code, "internal");
    await assert.rejects(one.publish("a", 1), code("internal"));
    socket.terminate();
    hub.intercept = () => false;
    const next = client();
    assert.ok((await within("the next client", next.publish("b", 1))).seq > 0);
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
