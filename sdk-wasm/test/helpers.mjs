/** What several of these tests need: deadlines, refusals, odd values, a real hub of one's own. */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

import { HubError } from "@prom-hub/sdk";

const root = fileURLToPath(new URL("../../", import.meta.url));
const here = fileURLToPath(new URL("./", import.meta.url));

/** Deadline of every wait, in ms: far beyond what is waited for, also on a slow machine. */
export const PATIENCE = Number(process.env.TEST_PATIENCE ?? 60_000);

/** Reconnects without a wait worth a word. */
export const fast = { reconnectMinMs: 1, reconnectMaxMs: 20 };

export const code = (wanted) => (error) => error instanceof HubError && error.code === wanted;

/** The promise's outcome, or an error once the patience is over. */
export async function within(what, promise, ms = PATIENCE) {
  let timer;
  const over = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited ${ms} ms for ${what}`)), ms);
  });
  try {
    return await Promise.race([promise, over]);
  } finally {
    clearTimeout(timer);
  }
}

/** Lets everything run that waits for no timer and no socket. */
export const turn = () => new Promise(setImmediate);

/**
 * Calls what must be refused: with a promise that rejects, never by throwing, with a HubError of this code whose message
 * matches.
 */
export async function refused(what, call, wanted, message = /./) {
  let promise;
  try {
    promise = call();
  } catch (error) {
    assert.fail(`${what}: threw at once instead of rejecting: ${describeError(error)}`);
  }
  let value;
  try {
    value = await within(what, promise);
  } catch (error) {
    assert.ok(error instanceof HubError, `${what}: no HubError, but ${describeError(error)}`);
    assert.equal(error.code, wanted, `${what}: ${error.code}: ${error.message}`);
    assert.match(error.message, message, what);
    assert.equal(error.retryable, false, `${what}: retryable`);
    return error;
  }
  return assert.fail(`${what}: not refused, but ${typeof value === "object" ? JSON.stringify(value) : String(value)}`);
}

/** For errors that cannot be printed either. */
export function describeError(error) {
  try {
    return error instanceof Error ? `${error.name}: ${String(error.message)}` : String(error);
  } catch {
    return "something that cannot be printed";
  }
}

/** Whether the client still works on its first connection. */
export async function goesOn(what, client, hub) {
  assert.equal(client.state, "ready", `${what}: ended the connection`);
  assert.ok((await within(`a publish after ${what}`, client.publish("goes.on", 1))).seq > 0);
  assert.equal(hub.logins, 1, `${what}: connected again`);
}

function revoked(target) {
  const { proxy, revoke } = Proxy.revocable(target, {});
  revoke();
  return proxy;
}

const boom = () => {
  throw new Error("boom");
};

/** A proxy that answers nothing but by throwing. */
export const hostile = (target) =>
  new Proxy(target, Object.fromEntries(["get", "has", "ownKeys", "getPrototypeOf", "getOwnPropertyDescriptor"].map((trap) => [trap, boom])));

/** Values that are no string, each with its name. */
export const notStrings = () => [
  ["null", null],
  ["a number", 7],
  ["NaN", NaN],
  ["a BigInt", 7n],
  ["a boolean", true],
  ["a symbol", Symbol("s")],
  ["an object", {}],
  ["a list", ["t"]],
  ["a function", () => "t"],
  ["a String object", new String("t")],
  ["a date", new Date(0)],
  ["bytes", new Uint8Array([116])],
  ["a promise", Promise.resolve("t")],
  ["an object that cannot be a string", Object.create(null)],
  ["an object whose toString throws", { toString: boom, valueOf: boom }],
  ["an object with toString", { toString: () => "t" }],
  ["a proxy", new Proxy({}, {})],
  ["a hostile proxy", hostile({})],
  ["a revoked proxy", revoked({})],
];

/** Values that are no number of milliseconds or events. */
export const notNumbers = () => [
  ["null", null],
  ["a text", "1000"],
  ["an empty text", ""],
  ["a BigInt", 1000n],
  ["a boolean", true],
  ["a symbol", Symbol("s")],
  ["an object", {}],
  ["a list", [1000]],
  ["a date", new Date(1000)],
  ["a Number object", new Number(1000)],
  ["an object whose valueOf throws", { valueOf: boom, toString: boom }],
  ["an object that cannot be a number", Object.create(null)],
  ["a revoked proxy", revoked({})],
];

/** Values that are no object of options. */
export const notOptions = () => [
  ["null", null],
  ["a number", 7],
  ["a text", "earliest"],
  ["a BigInt", 7n],
  ["a boolean", true],
  ["a symbol", Symbol("s")],
  ["a list", ["id"]],
  ["a function", () => ({})],
  ["a revoked proxy", revoked({})],
  ["a hostile proxy", hostile({})],
];

/** Values that are no function. */
export const notFunctions = () => [
  ["undefined", undefined],
  ["null", null],
  ["a number", 7],
  ["a text", "handler"],
  ["an object", {}],
  ["a listener object", { handleEvent() {} }],
  ["a promise of one", Promise.resolve(() => {})],
  ["a revoked proxy", revoked({})],
];

/** Runs a script of this folder's `child` in a process of its own. Gives its exit code, signal and output. */
export async function runChild(script, ...args) {
  const child = spawn(process.execPath, [join(here, "child", script), ...args], { stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding("utf8").on("data", (text) => (output += text));
  try {
    const [exit, signal] = await within(`${script} to end`, once(child, "close"), 2 * PATIENCE);
    return { exit, signal, output };
  } finally {
    child.kill("SIGKILL");
  }
}

/** A hub of its own, the binary that PROM_BIN names, on a free port and with a folder of its own; ends with `stop`. */
export async function realHub() {
  const prom = resolve(root, process.env.PROM_BIN ?? "target/debug/prom");
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
    ended.then(() => fail(new Error(`the hub ended: ${printed}`)), fail);
  });
  const stop = async () => {
    child.kill("SIGTERM");
    await ended.catch(() => undefined);
    await rm(folder, { recursive: true, force: true });
  };
  try {
    const { url, token } = await within("the hub's address", found);
    const { port } = new URL(url);
    return { url, token, port: Number(port), pid: child.pid, http: `http://127.0.0.1:${port}`, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}
