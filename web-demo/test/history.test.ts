import assert from "node:assert/strict";
import { test } from "node:test";
import { History, SAMPLES } from "../src/history.js";

function read(history: History, slot: number, series: "cpu" | "mem"): number[] {
  const out = new Float32Array(SAMPLES);
  return [...out.subarray(0, history.read(slot, series, out))];
}

test("reads samples oldest first, each series apart", () => {
  const history = new History();
  const slot = history.acquire();
  history.push(slot, 1, 10);
  history.push(slot, 2, 20);
  assert.deepEqual(read(history, slot, "cpu"), [1, 2]);
  assert.deepEqual(read(history, slot, "mem"), [10, 20]);
});

test("keeps the newest samples when full", () => {
  const history = new History();
  const slot = history.acquire();
  for (let i = 0; i < SAMPLES + 5; i++) history.push(slot, i, -i);
  const cpu = read(history, slot, "cpu");
  assert.equal(cpu.length, SAMPLES);
  assert.deepEqual([cpu[0], cpu.at(-1)], [5, SAMPLES + 4]);
});

test("grows without losing samples", () => {
  const history = new History(2);
  const slots = Array.from({ length: 9 }, () => history.acquire());
  for (const slot of slots) history.push(slot, slot + 0.5, slot);
  for (const slot of slots) assert.deepEqual(read(history, slot, "cpu"), [slot + 0.5]);
});

test("a reused slot starts empty", () => {
  const history = new History();
  const slot = history.acquire();
  history.push(slot, 1, 1);
  history.release(slot);
  assert.equal(history.acquire(), slot);
  assert.deepEqual(read(history, slot, "mem"), []);
});
