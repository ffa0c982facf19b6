import assert from "node:assert/strict";
import { test } from "node:test";
import { takeToken, tokenIn } from "../src/token.js";

test("finds the token in what people paste", () => {
  assert.equal(tokenIn("#token=eyJ.a-b_c"), "eyJ.a-b_c");
  assert.equal(tokenIn("  http://127.0.0.1:8090/#token=eyJ.x \n"), "eyJ.x");
  assert.equal(tokenIn("Bearer eyJ.x"), "eyJ.x");
  assert.equal(tokenIn("eyJ.x"), "eyJ.x");
  for (const nothing of ["", "   ", "two words", "http://127.0.0.1:8090/#", "#other=1", "#token="]) assert.equal(tokenIn(nothing), undefined);
});

class FakeStorage {
  readonly items = new Map<string, string>();
  getItem(key: string): string | null {
    return this.items.get(key) ?? null;
  }
  setItem(key: string, value: string): void {
    this.items.set(key, value);
  }
}

function page(hash: string) {
  const replaced: string[] = [];
  return {
    location: { hash, pathname: "/", search: "?a=1" } as Location,
    history: { state: null, replaceState: (_state: unknown, _title: string, url: string) => replaced.push(url) } as unknown as History,
    replaced,
  };
}

test("moves the token from the address bar to the storage, where a reload finds it", () => {
  const storage = new FakeStorage() as unknown as Storage;
  const first = page("#token=abc");
  assert.equal(takeToken(first.location, first.history, () => storage), "abc");
  assert.deepEqual(first.replaced, ["/?a=1"]);
  const reload = page("");
  assert.equal(takeToken(reload.location, reload.history, () => storage), "abc");
  assert.deepEqual(reload.replaced, []);
});

test("leaves the token in the address bar when storage is switched off", () => {
  const off = (): Storage => {
    throw new Error("SecurityError");
  };
  const only = page("#token=abc");
  assert.equal(takeToken(only.location, only.history, off), "abc");
  assert.deepEqual(only.replaced, []);
  const none = page("");
  assert.equal(takeToken(none.location, none.history, off), undefined);
});
