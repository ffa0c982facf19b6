/** The topic this page shows, and the payload of its events. */

export const TOPIC = "process.state";

export type Status = "alive" | "stale";

export interface ProcessState {
  /** `host:name:pid`, the same as the event's key. */
  readonly processId: string;
  readonly name: string;
  readonly host: string;
  readonly pid: number;
  /** Session id the process gave itself. */
  readonly sid?: string;
  /** Share of one core; a process on several cores exceeds 100. */
  readonly cpu_pct: number;
  readonly mem_mb: number;
  /** Hub's clock, milliseconds since the Unix epoch. */
  readonly last_seen_ts: number;
  readonly status: Status;
}

/** Anyone with a publish right can write to the topic, so the shape is checked before a row trusts it. */
export function isProcessState(value: unknown): value is ProcessState {
  if (typeof value !== "object" || value === null) return false;
  const state = value as Record<keyof ProcessState, unknown>;
  return (
    typeof state.name === "string" &&
    typeof state.host === "string" &&
    typeof state.pid === "number" &&
    typeof state.cpu_pct === "number" &&
    typeof state.mem_mb === "number" &&
    typeof state.last_seen_ts === "number" &&
    (state.status === "alive" || state.status === "stale")
  );
}
