// What every hub and client must do together, on the real hub: the binary that PROM_BIN names.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

import * as sdk from "@prom-hub/sdk";

import { suite } from "./suite.mjs";

const root = fileURLToPath(new URL("../../", import.meta.url));
const prom = resolve(root, process.env.PROM_BIN ?? "target/debug/prom");

/** A hub of its own, on a free port and with a folder of its own; ends with `stop`. */
async function start() {
  const folder = await mkdtemp(join(tmpdir(), "prom-sdk-"));
  // Where this test run's own environment may say otherwise, the hub is told.
  const args = ["dev", "--port", "0", "--ops-port", "0", "--data", join(folder, "data"), "--no-heartbeat"];
  const child = spawn(prom, args, { cwd: folder, stdio: ["ignore", "pipe", "inherit"] });
  const ended = once(child, "exit");
  let printed = "";
  const found = new Promise((done, fail) => {
    child.stdout.setEncoding("utf8").on("data", (text) => {
      printed += text;
      const url = printed.match(/ws:\/\/\S+/)?.[0];
      const token = printed.match(/Token\s+(\S+)\s/)?.[1];
      if (url && token) done({ url, token });
    });
    void ended.then(() => fail(new Error(`the hub ended: ${printed}`)));
  });
  const { url, token } = await found;
  const stop = async () => {
    child.kill("SIGTERM");
    await ended;
    await rm(folder, { recursive: true, force: true });
  };
  return { url, token, stop };
}

suite("the real hub", sdk, start);
