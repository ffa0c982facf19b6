import { HubError } from "./error.js";

/** The JSON of a payload. What JSON would silently lose or alter is refused instead, with its path. A property whose value is
 * `undefined` counts as absent, and `toJSON` is respected. */
export function payloadText(payload: unknown): string {
  const thrown: unknown[] = [];
  const wrong = fault(payload, 0, thrown);
  try {
    if (wrong === undefined) return JSON.stringify(payload);
  } catch (error) { thrown.push(error); }
  throw new HubError("bad_payload", `payload${wrong ?? THROWS}`, false, undefined, thrown[0]);
}

/** The hub's `caused_by`, in events of older hubs one string, is `causedBy` here. */
export function named<T extends readonly object[]>(events: T): T {
  for (const event of events as readonly { causedBy?: unknown; caused_by?: unknown }[]) if (event?.caused_by) (event.causedBy = [event.caused_by].flat(), delete event.caused_by);
  return events;
}

/** Far deeper than the hub accepts; ends the walk through a cycle. */
const DEPTH = 200;
const THROWS = " cannot be read: it throws";
const DEEP = " nests too deep, or holds itself";
const within = (path: string, wrong: string): string => (wrong === DEEP ? wrong : path + wrong);
/** Objects that JSON has a form for. It makes `{}` of all others. */
const HOLDS = new Set(["[object Object]", "[object String]", "[object Boolean]"]);

/** What is wrong, after the path to it. The path is put together on the way back, because nearly nothing has one to tell. */
function fault(value: unknown, depth: number, thrown: unknown[]): string | undefined {
  if (typeof value === "string" || typeof value === "boolean" || value === null) return undefined;
  if (typeof value === "number" || value === undefined) return Number.isFinite(value) ? undefined : ` is ${value}`;
  if (typeof value !== "object") return ` is a ${typeof value}`;
  if (depth > DEPTH) return DEEP;
  try {
    let wrong: string | undefined;
    if (Array.isArray(value)) {
      for (let at = 0; at < value.length; at++) if ((wrong = fault(value[at], depth + 1, thrown))) return within(`[${at}]`, wrong);
      return undefined;
    }
    // JSON makes `null` of a date that is none.
    if (value instanceof Date && Number.isNaN(value.getTime())) return " is an invalid Date";
    if ("toJSON" in value && typeof value.toJSON === "function") return fault(value.toJSON(), depth + 1, thrown);
    const kind = Object.prototype.toString.call(value);
    if (kind === "[object Number]") return fault(Number(value), depth, thrown);
    if (!HOLDS.has(kind)) return ` is a ${kind.slice(8, -1)}, which JSON cannot hold`;
    for (const name of Object.keys(value)) {
      try {
        const property: unknown = value[name as never];
        if (property !== undefined) wrong = fault(property, depth + 1, thrown);
      } catch (error) { wrong = (thrown.push(error), THROWS); }
      if (wrong) return within(`.${name}`, wrong);
    }
    return undefined;
  } catch (error) { return (thrown.push(error), THROWS); }
}
