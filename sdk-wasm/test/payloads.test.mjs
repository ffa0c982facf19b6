// A payload arrives as it was, or is refused with the path of what JSON would silently change.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";

import { PromClient } from "@prom-hub/sdk";

import { FakeHub } from "./fake-hub.mjs";
import { PATIENCE, goesOn, hostile, realHub, refused, within } from "./helpers.mjs";
import { newTopic } from "./suite.mjs";

const boom = () => {
  throw Object.assign(new Error(), { message: ["boom"] });
};

class Point {
  constructor(x, y) {
    this.x = x;
    this.y = y;
  }
}

describe("payloads", { timeout: 2 * PATIENCE }, () => {
  let hub;
  let c;
  before(async () => {
    hub = await FakeHub.start();
    c = new PromClient(hub.url, "t");
    await c.connect();
  });
  after(async () => {
    await c?.close();
    await hub.stop();
  });

  const sent = async (payload) => {
    await within("the publish", c.publish("a", payload));
    return hub.of("PUBLISH").at(-1).payload;
  };

  const changed = () => {
    const { proxy, revoke } = Proxy.revocable({}, {});
    revoke();
    const cycle = {};
    cycle.self = { cycle };
    const list = [];
    list.push([list]);
    let deep = 1;
    for (let n = 0; n < 10_000; n++) deep = [deep];
    return {
      "an ArrayBuffer": new ArrayBuffer(4),
      "a SharedArrayBuffer": new SharedArrayBuffer(4),
      "a DataView": new DataView(new ArrayBuffer(4)),
      "an Uint8Array": new Uint8Array(3),
      "a Float64Array": new Float64Array(3),
      "a BigInt64Array": new BigInt64Array(3),
      "an empty Uint8Array": new Uint8Array(0),
      "an Error": new Error("lost"),
      "a TypeError": new TypeError("lost"),
      "an AggregateError": new AggregateError([], "lost"),
      "a RegExp": /x/,
      "a Promise": Promise.resolve(1),
      "a Blob": new Blob(["x"]),
      "a Map": new Map([[1, 2]]),
      "a Set": new Set([1]),
      "a WeakMap": new WeakMap(),
      "a WeakSet": new WeakSet(),
      "a WeakRef": new WeakRef({}),
      "a BigInt": 1n,
      "a boxed BigInt": Object(1n),
      "a boxed symbol": Object(Symbol("s")),
      "a boxed NaN": new Number(NaN),
      "a function": () => 1,
      "a class": Point,
      "a symbol": Symbol("s"),
      NaN,
      Infinity,
      "-Infinity": -Infinity,
      "a list with a hole": [1, , 3],
      "an empty list with a length": new Array(3),
      "a list of undefined": [undefined],
      "a generator": (function* () {})(),
      "an iterator": new Map().entries(),
      "URLSearchParams": new URLSearchParams("a=b"),
      Headers: new Headers({ a: "b" }),
      FormData: new FormData(),
      "an AbortSignal": new AbortController().signal,
      "a cycle": cycle,
      "a list that holds itself": list,
      "ten thousand levels": deep,
      "an invalid date": new Date(NaN),
      "a throwing getter": Object.defineProperty({}, "x", { get: boom, enumerable: true }),
      "a throwing toJSON": { toJSON: boom },
      "toJSON of undefined": { toJSON: () => undefined },
      "toJSON of a Map": { toJSON: () => new Map() },
      "toJSON of NaN": { toJSON: () => NaN },
      "a revoked proxy": proxy,
      "a hostile proxy": hostile({}),
    };
  };

  it("what JSON would change is refused, at any depth, with its path", async () => {
    const wrong = [];
    const before = hub.of("PUBLISH").length;
    const check = (what, payload, path) => refused(what, () => c.publish("a", payload), "bad_payload", path).catch((error) => wrong.push(error.message));
    for (const [kind, value] of Object.entries(changed())) {
      // Where the fault is deeper than the value, its path goes on; where it holds itself, there is no end to name.
      const endless = /cycle|itself|levels/.test(kind);
      await check(kind, value, endless ? /payload/ : /^payload\b/);
      await check(`${kind} in a property`, { a: value }, endless ? /payload/ : /^payload\.a\b/);
      await check(`${kind} in a list in a property`, { ok: 1, a: [0, { b: value }] }, endless ? /payload/ : /^payload\.a\[1\]\.b\b/);
      await check(`${kind} by toJSON`, { toJSON: () => [value] }, endless ? /payload/ : /^payload\[0\]/);
    }
    await check("undefined", undefined, /^payload is undefined/);
    await check("undefined in a list", { a: [1, undefined] }, /^payload\.a\[1\] is undefined/);
    await check("an awkward name", { "a b": { "": NaN } }, /^payload/);
    assert.deepEqual(wrong, []);
    assert.equal(hub.of("PUBLISH").length, before, "nothing was sent");
    await goesOn("bad payloads", c, hub);
  });

  it("what was thrown is the cause", async () => {
    const cause = new RangeError("mine");
    const fail = () => { throw cause; };
    for (const payload of [{ toJSON: fail }, { a: Object.defineProperty({}, "x", { get: fail, enumerable: true }) }, [{ toJSON: fail }]]) {
      assert.equal((await refused("a payload", () => c.publish("a", payload), "bad_payload")).cause, cause);
    }
    assert.equal((await refused("a payload", () => c.publishMany([{ topic: "a", payload: { toJSON: fail } }]), "bad_payload")).cause, cause);
    await refused("a getter", () => c.publish("a", { a: Object.defineProperty({}, "x", { get: fail, enumerable: true }) }), "bad_payload", /^payload\.a\.x cannot be read/);
    assert.equal("cause" in (await refused("a number", () => c.publish("a", NaN), "bad_payload")), false);
  });

  it("the message says what it is", async () => {
    for (const [value, said] of [[Promise.resolve(1), /Promise/], [new Uint8Array(1), /Uint8Array/], [new ArrayBuffer(1), /ArrayBuffer/], [new Error("x"), /Error/], [/x/, /RegExp/], [new Blob([]), /Blob/], [new Map(), /Map/], [1n, /bigint/i], [NaN, /NaN/]]) {
      await refused(String(said), () => c.publish("a", { a: [value] }), "bad_payload", new RegExp(`^payload\\.a\\[0\\] is .*${said.source}`, said.flags));
    }
  });

  it("values of another realm are known as well", async () => {
    const { runInNewContext } = await import("node:vm");
    for (const source of ["new Map()", "new Set()", "new Error('x')", "/x/", "Promise.resolve()", "new ArrayBuffer(1)", "new Uint8Array(1)", "new DataView(new ArrayBuffer(1))", "Object(1n)"]) {
      await refused(source, () => c.publish("a", { a: runInNewContext(source) }), "bad_payload", /^payload\.a\b/);
    }
    assert.deepEqual(await sent(runInNewContext("({ a: [1, { b: null }], d: new Date(0) })")), { a: [1, { b: null }], d: "1970-01-01T00:00:00.000Z" });
  });

  it("what JSON can say arrives", async () => {
    const shared = { s: 1 };
    for (const [payload, wanted = payload] of [
      [null], [0], [-1.5e300], [""], [true], [[]], [{}], [{ a: { b: [1, "2", null] } }],
      [new Date(0), "1970-01-01T00:00:00.000Z"],
      [{ at: new Date(0) }, { at: "1970-01-01T00:00:00.000Z" }],
      [new Point(1, 2), { x: 1, y: 2 }],
      [Object.assign(Object.create(null), { a: 1 }), { a: 1 }],
      [{ gone: undefined, here: 1 }, { here: 1 }],
      [{ [Symbol("s")]: 1, a: 1 }, { a: 1 }],
      [{ toJSON: () => ({ j: 1 }) }, { j: 1 }],
      [new URL("http://a/b"), "http://a/b"],
      [Buffer.from("ab").toJSON(), { type: "Buffer", data: [97, 98] }],
      [new Number(7), 7], [new String("s"), "s"], [new Boolean(false), false],
      [{ a: shared, b: [shared, shared] }, { a: shared, b: [shared, shared] }],
      [Object.freeze({ a: Object.freeze([1]) }), { a: [1] }],
      [new Proxy({ a: 1 }, {}), { a: 1 }],
      [Object.defineProperty({ a: 1 }, "hidden", { value: () => 1, enumerable: false }), { a: 1 }],
      [JSON.parse('{"__proto__": {"a": 1}}')],
      [-0, 0],
      [{ ä: "\u2028\u0000\"\\😀" }],
    ]) {
      assert.deepEqual(await sent(payload), wanted);
    }
  });

  it("an array with toJSON, and bytes with toJSON, are what that says", async () => {
    assert.deepEqual(await sent(Object.assign([1], { toJSON: () => "list" })), "list");
    assert.deepEqual(await sent({ at: Object.assign(new Map([[1, 2]]), { toJSON: () => [[1, 2]] }) }), { at: [[1, 2]] });
    // Node's Buffer has one; that is what JSON.stringify gives, and it is no surprise to those who use it.
    assert.deepEqual(await sent(Buffer.from("a")), { type: "Buffer", data: [97] });
  });

  it("is what it was when publish was called, also before the module is loaded", async () => {
    const fresh = new PromClient(hub.url, "t");
    const payload = { n: [1] };
    const published = fresh.publish("a", payload);
    payload.n.push(2);
    await published;
    assert.deepEqual(hub.of("PUBLISH").at(-1).payload, { n: [1] });
    await fresh.close();
  });
});

describe("payloads on a real hub", { timeout: 2 * PATIENCE }, () => {
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

  it("half a character in a string is refused or kept, never replaced", async () => {
    for (const text of ["half \ud83d", "\ude00 half", "\ud83d\ud83d\ude00"]) {
      for (const payload of [text, { a: [text] }, { [text]: 1 }]) {
        const topic = newTopic();
        const outcome = await within("the publish", c.publish(topic, payload)).catch((error) => error);
        if (outcome instanceof Error) {
          assert.equal(outcome.code, "bad_payload", String(outcome));
        } else {
          const { value } = await within("the event", c.events(topic, "g", { from: "earliest" }).next());
          assert.deepEqual(value.event.payload, payload);
        }
      }
    }
  });

  it("numbers, depths and names within the hub's profile arrive as they are", async () => {
    const topic = newTopic();
    let deep = 1;
    for (let n = 0; n < 60; n++) deep = [deep];
    const payload = { deep, big: 2 ** 53 - 1, small: 5e-324, large: 1.7976931348623157e308, "": "", ä: "😀", __proto__x: 1 };
    await c.publish(topic, payload);
    const { value } = await within("the event", c.events(topic, "g", { from: "earliest" }).next());
    assert.deepEqual(value.event.payload, payload);
  });
});
