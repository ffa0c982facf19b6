import assert from "node:assert/strict";
import { test } from "node:test";
import { formatAge, formatCount, formatCpu, formatMemory, formatRate } from "../src/format.js";

test("ages use the largest unit that fits", () => {
  const cases: readonly [number, string][] = [
    [0, "now"],
    [999, "now"],
    [1000, "1 s"],
    [59_999, "59 s"],
    [60_000, "1 min"],
    [3_599_999, "59 min"],
    [3_600_000, "1 h"],
    [86_400_000 * 3, "3 d"],
  ];
  for (const [age, text] of cases) assert.equal(formatAge(age), text);
});

test("memory, CPU, counts and rates", () => {
  assert.equal(formatMemory(4.25), "4.3 MB");
  assert.equal(formatMemory(182.4), "182 MB");
  assert.equal(formatMemory(1536), "1.50 GB");
  assert.equal(formatMemory(1024 * 1024 * 2), "2.00 TB");
  assert.equal(formatMemory(1024 * 51.44), "51.4 GB");
  assert.equal(formatMemory(1024 * 180.9), "181 GB");
  assert.equal(formatCpu(0), "0.0%");
  assert.equal(formatCpu(2252.7), "2,253%");
  assert.equal(formatCpu(112.34), "112.3%");
  assert.equal(formatCount(10_000), "10,000");
  assert.equal(formatRate(0), "0");
  assert.equal(formatRate(0.4), "0.4");
  assert.equal(formatRate(1999.7), "2,000");
});
