import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, it } from "node:test";

import { HubError, PromClient, allow, deny, scopesToPolicy } from "@prom-hub/sdk";

import { FakeHub } from "./fake-hub.mjs";
import { recorder } from "./suite.mjs";

const code = (wanted) => (error) => error instanceof HubError && error.code === wanted;

describe("the client", () => {
  let hub;
  let c;
  beforeEach(async () => {
    hub = await FakeHub.start();
    c = new PromClient(hub.url, "t");
  });
  afterEach(async () => {
    await c.close();
    await hub.stop();
  });

  it("sends nothing but AUTH before its answer", async () => {
    let answer;
    hub.intercept = (frame, client) => {
      if (frame.op !== "AUTH") return false;
      answer = () => hub.answer(frame, client);
      return true;
    };
    const published = c.publish("a", 1);
    const subscribed = c.subscribe("a", "g", () => {});
    await hub.until(() => hub.frames.length > 0);
    assert.deepEqual(hub.frames.map(({ op }) => op), ["AUTH"]);
    answer();
    await Promise.all([published, subscribed]);
  });

  it("keeps what a payload was when publish was called", async () => {
    const payload = { n: 1 };
    const published = c.publish("a", payload);
    payload.n = 2;
    await published;
    assert.deepEqual(hub.of("PUBLISH")[0].payload, { n: 1 });
  });

  it("settles a call the hub never answers", async () => {
    await c.connect();
    hub.intercept = () => true;
    await assert.rejects(c.publish("a", 1, { timeoutMs: 30 }), (error) => code("timeout")(error) && error.retryable);
    const open = [c.publish("a", 1), c.subscribe("a", "g", () => {}), c.watch("a"), c.events("a", "h").next()];
    await hub.until(() => hub.of("SUBSCRIBE").length === 3);
    const results = Promise.allSettled(open);
    await c.close();
    for (const { status, reason, value } of await results) {
      if (status === "rejected") assert.equal(reason.code, "closed");
      else assert.equal(value.done, true);
    }
  });

  it("hands on the hub's errors", async () => {
    await c.connect();
    hub.intercept = (frame, client) => {
      client.send({ op: "ERR", code: "rate_limited", msg: "slow down", corr: frame.corr, retry_after_ms: 70 });
      return true;
    };
    await assert.rejects(c.publish("a", 1), { code: "rate_limited", message: "slow down", retryable: true, retryAfterMs: 70 });
    hub.intercept = (frame, client) => {
      client.send({ op: "ERR", code: "a_later_code", msg: "m", corr: frame.corr });
      return true;
    };
    await assert.rejects(c.subscribe("a", "g", () => {}), { code: "a_later_code", retryable: false });
  });

  it("extends the lease while a handler runs", async () => {
    let finish;
    await c.subscribe("a", "g", () => new Promise((resolve) => (finish = resolve)), { ackTimeoutMs: 100 });
    await c.publish("a", 1);
    await hub.until(() => hub.of("MODACK").length === 2);
    finish();
    await hub.until(() => hub.of("ACK").length === 1);
    assert.deepEqual([hub.of("MODACK")[0].extend_ms, hub.of("ACK")[0].corr], [1000, undefined]);
  });

  it("extends the leases of what waits in an iterator, until it is taken", async () => {
    const kept = c.events("a", "g", { ackTimeoutMs: 100 });
    const own = c.events("b", "g", { ackTimeoutMs: 100, autoExtend: false });
    await hub.until(() => hub.of("SUBSCRIBE").length === 2);
    for (const topic of ["b", "a", "a"]) await c.publish(topic, 1, { id: `${topic}${hub.of("PUBLISH").length}` });
    const of = (id) => hub.of("MODACK").filter((frame) => frame.id === id).length;
    await hub.until(() => of("a1") >= 2 && of("a2") >= 2);
    const { value: taken } = await kept.next();
    assert.equal(taken.event.id, "a1");
    const before = of("a1");
    const waiting = of("a2");
    await hub.until(() => of("a2") >= waiting + 2);
    assert.deepEqual([of("a1"), of("b0")], [before, 0], "what is taken, and what is not to be kept");
    await taken.ack();
    await Promise.all([kept.return(), own.return()]);
  });

  it("tells whoever settles by hand that the lease has ended", async () => {
    const deliveries = c.events("a", "g", { ackTimeoutMs: 50 });
    await hub.until(() => hub.of("SUBSCRIBE").length === 1);
    hub.publish("a", 1);
    const { value: { ctx } } = await deliveries.next();
    assert.equal(ctx.signal.aborted, false);
    await new Promise((resolve) => ctx.signal.addEventListener("abort", resolve));
    await deliveries.return();
  });

  it("gives out nothing whose lease has ended while the process stood still", async () => {
    let connection;
    hub.intercept = (frame, client) => void (connection = client);
    const deliveries = c.events("a", "g");
    await hub.until(() => hub.of("SUBSCRIBE").length === 1);
    const send = (id, ms) => connection.send({ op: "EVENT", topic: "a", group: "g", event: { id, seq: 1, ts: 1, topic: "a", payload: id },
      ctx: { attempt: 1, max_attempts: 5, ack_deadline_ms: ms, lease: "1".padStart(16, "0"), redelivered: false } });
    send("short", 40);
    send("long", 60_000);
    await c.publish("other", 1);
    const end = performance.now() + 60;
    while (performance.now() < end);
    assert.equal((await deliveries.next()).value.event.id, "long");
    assert.equal(hub.of("MODACK").some(({ id }) => id === "short"), false, "nobody brings it back");
    await deliveries.return();
  });

  it("a debug log may call the client", async () => {
    const told = [];
    const own = new PromClient(hub.url, "t", { log: (line) => { told.push(line); if (line.startsWith("<") && told.length < 20) void own.publish("logged", line).catch(() => {}); } });
    await own.publish("a", 1);
    await hub.until(() => hub.of("PUBLISH").filter(({ topic }) => topic === "logged").length >= 2);
    assert.equal((await own.publish("a", 2)).duplicate, false);
    await own.close();
  });

  it("tells the hub why a handler failed, and the caller what the hub refused", async () => {
    const errors = recorder();
    c.on("error", (error) => errors(error.code));
    await c.subscribe("a", "g", () => Promise.reject(new Error("boom")), { autoExtend: false });
    hub.intercept = (frame, client) => {
      if (frame.op !== "NACK") return false;
      client.send({ op: "ERR", code: "store_unavailable", msg: "m" });
      return true;
    };
    await c.publish("a", 1);
    assert.deepEqual(await errors.until(2), [["handler_failed"], ["store_unavailable"]]);
    assert.equal(hub.of("NACK")[0].reason, "boom");
  });

  it("sends no acknowledgement where none is wanted, and slows the hub down", async () => {
    const deliveries = c.events("a", "g", { ack: "none" });
    await hub.until(() => hub.of("SUBSCRIBE").length === 1);
    for (let n = 0; n < 1500; n++) hub.publish("a", n);
    await hub.until(() => hub.of("PAUSE").length === 1);
    for (let n = 0; n < 1500; n++) {
      const { value } = await deliveries.next();
      assert.equal(value.event.payload, n);
      await value.ack();
    }
    await hub.until(() => hub.of("RESUME").length === 1);
    assert.equal(hub.of("ACK").length, 0);
  });

  it("tells of gaps and revocations", async () => {
    const told = recorder();
    c.on("gap", (gap) => told(gap));
    c.on("revoked", ({ topic, group, error }) => told({ topic, group, code: error.code }));
    const deliveries = c.events("a.*", "g");
    let connection;
    hub.intercept = (frame, client) => void (connection = client);
    await hub.until(() => hub.of("SUBSCRIBE").length === 1);
    connection.send({ op: "GAP", topic: "a.b", group: "g", from: 2, to: 3, reason: "r" });
    connection.send({ op: "REVOKED", topic: "a.*", group: "g", code: "forbidden", msg: "m" });
    assert.deepEqual((await told.until(2)).flat(), [
      { topic: "a.b", group: "g", from: 2, to: 3, reason: "r" },
      { topic: "a.*", group: "g", code: "forbidden" },
    ]);
    await assert.rejects(deliveries.next(), code("forbidden"));
    assert.deepEqual(await deliveries.next(), { value: undefined, done: true });
  });

  it("keys a watched pattern by topic and key", async () => {
    const view = await c.watch("a.*");
    let connection;
    hub.intercept = (frame, client) => void (connection = client);
    await c.publish("x", 1);
    const ctx = { attempt: 1, max_attempts: 1, ack_deadline_ms: 0, lease: null, redelivered: false };
    for (const topic of ["a.b", "a.c"]) {
      const event = { id: topic, seq: 1, ts: 1, topic, key: "k", payload: 1 };
      connection.send({ op: "EVENT", topic: "a.*", group: "$live-1", event, ctx });
    }
    await c.publish("x", 2);
    assert.deepEqual([...view.keys()], ["a.b::k", "a.c::k"]);
  });

  it("survives whatever a hub may send", async () => {
    const errors = recorder();
    c.on("error", ({ code: name }) => errors(name));
    let connection;
    hub.intercept = (frame, client) => void (connection = client);
    await c.subscribe("a", "g", () => {});
    for (const text of ["", "nonsense", "[]", '{"op":"FUTURE"}', '{"op":"EVENT","topic":"a","group":"g"}', '{"op":"EVENT","topic":"a","group":"g","event":{]},"ctx":{"attempt":1,"max_attempts":1,"ack_deadline_ms":1,"lease":null,"redelivered":false}}']) {
      connection.socket.send(text);
    }
    connection.socket.send(Buffer.from([1, 2]));
    assert.equal((await c.publish("a", 1)).seq, 1);
    assert.equal(errors.calls.length, 5);
  });

  it("refuses URLs of another kind at once", () => {
    assert.throws(() => new PromClient("http://localhost/", "t"), TypeError);
    assert.throws(() => new PromClient("nonsense", "t"), TypeError);
  });

  it("closes before it was used", async () => {
    const unused = new PromClient(hub.url, "t");
    const early = unused.publish("a", 1);
    await unused.close();
    await assert.rejects(early, code("closed"));
    assert.equal(unused.state, "closed");
  });
});

describe("policies", () => {
  it("are made of scopes as the hub makes them", () => {
    const { rules } = scopesToPolicy("openid publish:heartbeat.* subscribe:** *:a ops:read publish publish:a..b *:a:b");
    assert.deepEqual(rules, [
      { effect: "allow", action: "publish", topics: ["heartbeat.*"] },
      { effect: "allow", action: "subscribe", topics: ["**"] },
      { effect: "allow", action: "*", topics: ["a"] },
      { effect: "allow", action: "ops:read", topics: [] },
    ]);
    assert.deepEqual(scopesToPolicy(["publish:$audit"]).rules.length, 1);
    assert.deepEqual(scopesToPolicy(["read"]).rules, [{ effect: "allow", action: "read", topics: ["**"] }]);
    assert.deepEqual(scopesToPolicy("read consume:a.*:g:1 consume:a:$g").rules, [
      { effect: "allow", action: "subscribe", topics: ["a.*"], groups: ["g:1"] },
    ]);
  });

  it("are written down rule by rule", () => {
    assert.deepEqual(deny("read", "secret.**"), { effect: "deny", action: "read", topics: ["secret.**"] });
    assert.deepEqual(deny("subscribe", "secret.**"), { effect: "deny", action: "subscribe", topics: ["secret.**"] });
    assert.deepEqual(allow("*", "a", "b.*").topics, ["a", "b.*"]);
    for (const bad of ["", "a b", "a.", "a*", "***", "a.$b", "x".repeat(256), Array(17).fill("s").join(".")]) {
      assert.throws(() => allow("publish", bad), TypeError, bad);
    }
    assert.ok(allow("publish", `dlq.dlq.${"x".repeat(255)}`));
  });
});
