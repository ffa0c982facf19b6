/** Which processes are shown. */

import type { Status } from "./process.js";

export type StatusFilter = "all" | Status;

/** What a text filter is compared with. */
export function haystack(name: string, pid: number, host: string): string {
  return `${name} ${pid} ${host}`.toLowerCase();
}

/** The words of a text filter; a process must contain all of them. */
export function words(text: string): readonly string[] {
  const trimmed = text.trim().toLowerCase();
  return trimmed === "" ? [] : trimmed.split(/\s+/);
}

export function matches(text: string, status: Status, wanted: readonly string[], wantedStatus: StatusFilter): boolean {
  if (wantedStatus !== "all" && status !== wantedStatus) return false;
  for (const word of wanted) if (!text.includes(word)) return false;
  return true;
}
