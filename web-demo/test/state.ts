import type { ProcessState } from "../src/process.js";

/** A process state with the fields a test cares about. */
export function state(host: string, name: string, pid: number, more: Partial<ProcessState> = {}): ProcessState {
  return {
    processId: `${host}:${name}:${pid}`,
    name,
    host,
    pid,
    cpu_pct: 1,
    mem_mb: 10,
    last_seen_ts: 1_000_000,
    status: "alive",
    ...more,
  };
}
