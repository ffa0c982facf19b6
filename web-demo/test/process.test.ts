import assert from "node:assert/strict";
import { test } from "node:test";
import { isProcessState } from "../src/process.js";
import { state } from "./state.js";

test("only complete states become rows", () => {
  assert.equal(isProcessState(state("a", "p", 1)), true);
  assert.equal(isProcessState({ ...state("a", "p", 1), later: "fields are fine" }), true);
  for (const bad of [null, undefined, 1, "x", [], {}, { ...state("a", "p", 1), pid: "1" }, { ...state("a", "p", 1), status: "gone" }]) {
    assert.equal(isProcessState(bad), false);
  }
});
