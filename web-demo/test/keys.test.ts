import assert from "node:assert/strict";
import { test } from "node:test";
import { moved } from "../src/keys.js";

test("keys move within the lines and stop at both ends", () => {
  const cases: readonly [string, number, number | undefined][] = [
    ["ArrowDown", 5, 6],
    ["ArrowDown", 99, 99],
    ["ArrowUp", 5, 4],
    ["ArrowUp", 0, 0],
    ["PageDown", 5, 25],
    ["PageDown", 95, 99],
    ["PageUp", 5, 0],
    ["Home", 50, 0],
    ["End", 50, 99],
    ["Enter", 50, undefined],
  ];
  for (const [key, from, to] of cases) assert.equal(moved(key, from, 100, 20), to, `${key} from ${from}`);
});
