import { HubError } from "./error.js";

/**
 * The JSON of a payload. What JSON would silently lose or alter is refused instead, with its path. A property whose value is
 * `undefined` counts as absent, and `toJSON` is respected.
 */
export function payloadText(payload: unknown): string {
  let text: string | undefined;
  try {
    check(payload, "payload", 0);
    text = JSON.stringify(payload);
  } catch (error) {
    if (error instanceof HubError) throw error;
    throw bad(`payload cannot be read: ${error instanceof Error ? error.message : "it throws"}`);
  }
  if (text === undefined) throw bad("payload is not a JSON value");
  return text;
}

/** Far deeper than the hub accepts; ends the walk through a cycle. */
const DEPTH = 200;

function check(value: unknown, path: string, depth: number): void {
  switch (typeof value) {
    case "string":
    case "boolean":
      return;
    case "number":
      if (!Number.isFinite(value)) throw bad(`${path} is ${value}`);
      return;
    case "object":
      break;
    default:
      throw bad(`${path} is ${value === undefined ? "undefined" : `a ${typeof value}`}`);
  }
  if (value === null) return;
  if (depth > DEPTH) throw bad("payload nests too deep, or holds itself");
  if (Array.isArray(value)) {
    for (let i = 0; i < value.length; i++) check(value[i], `${path}[${i}]`, depth + 1);
    return;
  }
  if ("toJSON" in value && typeof value.toJSON === "function") return check(value.toJSON(), path, depth + 1);
  const kind = Object.prototype.toString.call(value).slice(8, -1);
  if (LOSES.has(kind) || ArrayBuffer.isView(value)) throw bad(`${path} is a ${kind}, which JSON cannot hold`);
  for (const [name, property] of Object.entries(value)) {
    if (property !== undefined) check(property, `${path}.${name}`, depth + 1);
  }
}

/** Objects that JSON makes `{}` of, or something else than they are. */
const LOSES = new Set(
  "Map Set WeakMap WeakSet WeakRef Promise ArrayBuffer SharedArrayBuffer Error RegExp Blob File BigInt Symbol FormData URLSearchParams Headers ReadableStream".split(" "),
);

function bad(message: string): HubError {
  return new HubError("bad_payload", message, false);
}
