import assert from "node:assert/strict";
import { test } from "node:test";
import { HubClock } from "../src/clock.js";
import { Meter } from "../src/meter.js";

test("the meter gives the rate of the last five seconds and falls back to zero", () => {
  const meter = new Meter();
  assert.equal(meter.rate(0), 0);
  for (let at = 0; at < 10_000; at += 5) meter.hit(at);
  assert.ok(Math.abs(meter.rate(9_999) - 200) < 12);
  assert.equal(meter.rate(20_000), 0);
});

test("a first burst counts over at least a second", () => {
  const meter = new Meter();
  for (let i = 0; i < 100; i++) meter.hit(1000);
  assert.equal(meter.rate(1001), 100);
});

test("the clock leaves latency alone and corrects a clock that is wrong", () => {
  const clock = new HubClock();
  assert.equal(clock.now(5000), 5000);
  clock.observe(1_000_000, 1_000_150);
  assert.equal(clock.now(1_000_200), 1_000_200);

  const behind = new HubClock();
  behind.observe(1_000_000, 700_000);
  behind.observe(1_001_000, 701_400);
  assert.equal(behind.now(702_000), 1_002_000);
  behind.remeasure();
  assert.equal(behind.now(702_000), 1_002_000);
  behind.observe(1_010_000, 1_010_100);
  assert.equal(behind.now(1_011_000), 1_011_000);
});
