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
    throw error instanceof HubError ? error : bad("payload cannot be read: it throws");
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
  try {
    if (Array.isArray(value)) {
      for (let i = 0; i < value.length; i++) check(value[i], `${path}[${i}]`, depth + 1);
      return;
    }
    if ("toJSON" in value && typeof value.toJSON === "function") return check(value.toJSON(), path, depth + 1);
    const kind = Object.prototype.toString.call(value).slice(8, -1);
    if (kind === "Number") return check(Number(value), path, depth);
    if (!HOLDS.has(kind)) throw bad(`${path} is a ${kind}, which JSON cannot hold`);
    for (const [name, property] of Object.entries(value)) {
      if (property !== undefined) check(property, `${path}.${name}`, depth + 1);
    }
  } catch (error) {
    throw error instanceof HubError ? error : bad(`${path} cannot be read: it throws`);
  }
}

/** Objects that JSON has a form for. It makes `{}` of all others. */
const HOLDS = new Set(["Object", "String", "Boolean"]);

function bad(message: string): HubError {
  return new HubError("bad_payload", message, false);
}
