// The suite for all clients, on this SDK and on the plain client in `bench/js`: the program that PROM_CONFORMANCE_BIN names.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { resolve } from "node:path";
import { describe, it } from "node:test";
import { fileURLToPath } from "node:url";

import { PATIENCE } from "./helpers.mjs";

const root = fileURLToPath(new URL("../../", import.meta.url));
const program = resolve(root, process.env.PROM_CONFORMANCE_BIN ?? "target/debug/prom-conformance");

/** Plays all scenarios with this driver; gives what was printed, which is shown when it fails. */
async function play(driver) {
  const args = ["--patience", String(PATIENCE / 1000), "--", process.execPath, resolve(root, driver)];
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"] });
  let printed = "";
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding("utf8").on("data", (text) => (printed += text));
  const [exit] = await once(child, "close");
  assert.equal(exit, 0, printed);
  return printed;
}

describe("conformance", { timeout: 30 * PATIENCE }, () => {
  it("this SDK does all of it", async () => {
    assert.match(await play("sdk-wasm/test/driver.mjs"), /\n[0-9]+ passed, 0 failed, 0 skipped\n/);
  });

  it("the plain client does what it says it can", async () => {
    assert.match(await play("conformance/js/plain.mjs"), /\n[0-9]+ passed, 0 failed, [0-9]+ skipped\n/);
  });
});
