// Through a proxy that cuts at random: what was published is stored once, and a group loses nothing. The seed is printed;
// CHAOS_SEED runs it again.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";

import { PromClient } from "@prom-hub/sdk";

import { PATIENCE, fast, realHub, within } from "./helpers.mjs";
import { TcpProxy } from "./proxy.mjs";
import { newTopic, recorder } from "./suite.mjs";

const seed = Number(process.env.CHAOS_SEED ?? Date.now() % 2 ** 31);

/** Numbers from 0 to 1 that follow from the seed (mulberry32). */
function random(state) {
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

describe(`cuts at random, seed ${seed}`, { timeout: 10 * PATIENCE }, () => {
  let hub;
  let proxy;
  let c;
  const dice = random(seed);
  before(async () => {
    hub = await realHub();
    proxy = await TcpProxy.start(hub.port);
    proxy.pieceBytes = 1_000;
    c = new PromClient(proxy.url, hub.token, { ...fast, timeoutMs: 4 * PATIENCE, maxQueued: 20_000 });
  });
  after(async () => {
    await c?.close();
    await proxy?.stop();
    await hub?.stop();
  });

  const stored = async (topic) => {
    const all = [];
    for (let next = 0; next !== null; ) {
      const response = await fetch(`${hub.http}/replay?topic=${topic}&from=afterSeq&afterSeq=${next}&limit=1000`, { headers: { Authorization: `Bearer ${hub.token}` } });
      assert.equal(response.status, 200);
      const page = await response.json();
      all.push(...page.events);
      next = page.next;
    }
    return all;
  };

  it("10,000 publishes and 50 cuts: each is stored once, every promise settles", async () => {
    const topic = newTopic();
    const count = 10_000;
    const marks = new Set();
    while (marks.size < 50) marks.add(Math.floor(dice() * count));
    let answered = 0;
    let cuts = 0;
    const publish = async (n) => {
      const answer = await c.publish(topic, n, { id: `${topic}-${n}` });
      if (marks.has(answered++)) {
        cuts++;
        proxy.cut();
      }
      return answer;
    };
    // A window in flight, so that each cut meets publishes under way.
    const answers = [];
    let next = 0;
    const worker = async () => {
      while (next < count) {
        const n = next++;
        answers[n] = await publish(n);
      }
    };
    await within("every publish", Promise.all(Array.from({ length: 200 }, worker)), 5 * PATIENCE);
    const events = await stored(topic);
    assert.equal(cuts, 50);
    assert.ok(proxy.accepted > 1, "it was cut");
    assert.equal(events.length, count);
    assert.deepEqual(new Set(events.map(({ payload }) => payload)).size, count);
    for (const { seq, id, payload } of events) assert.deepEqual([answers[payload].seq, answers[payload].id], [seq, id]);
  });

  it("an ordered group and 20 cuts: nothing is lost, first deliveries are in order for each key", async () => {
    const topic = newTopic();
    const keys = 10;
    const count = 2_000;
    const direct = new PromClient(hub.url, hub.token);
    try {
      await Promise.all(Array.from({ length: count }, (_, n) => direct.publish(topic, n, { key: `k${n % keys}` })));
    } finally {
      await direct.close();
    }
    const marks = new Set();
    while (marks.size < 20) marks.add(Math.floor(dice() * count));
    const first = new Map();
    const got = recorder();
    let cuts = 0;
    await c.subscribe(topic, "g", ({ payload, key }) => {
      if (first.has(payload)) return;
      first.set(payload, key);
      got();
      if (marks.has(first.size - 1)) {
        cuts++;
        proxy.cut();
      }
    }, { from: "earliest", ordered: "key", maxAttempts: 1000 });
    await got.until(count);
    assert.equal(cuts, 20);
    for (let k = 0; k < keys; k++) {
      const order = [...first].filter(([, key]) => key === `k${k}`).map(([payload]) => payload);
      assert.deepEqual(order, Array.from({ length: count / keys }, (_, n) => n * keys + k));
    }
  });
});
