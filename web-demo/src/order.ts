/** How rows are ordered. Every comparison ends in a unique tie-break, so equal values never swap places. */

import type { HostRow, ProcessRow } from "./line.js";

export type SortKey = "status" | "name" | "pid" | "cpu" | "mem" | "seen";

export interface Sort {
  readonly key: SortKey;
  readonly descending: boolean;
}

/** What the first click on a column gives: text and pids upwards, the loudest first for the rest. */
export function firstDirection(key: SortKey): Sort {
  return { key, descending: key !== "name" && key !== "pid" };
}

const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

/**
 * The number a process is ordered by, at the precision the cell shows: a change nobody can see moves no row.
 * `name` has no number; names never change.
 */
export function rank(row: ProcessRow, key: SortKey): number {
  switch (key) {
    case "name":
      return 0;
    case "status":
      return row.status === "stale" ? 1 : 0;
    case "pid":
      return row.pid;
    case "cpu":
      // A stale row shows what it used last; it is not among those that use something now.
      return row.status === "stale" ? -1 : Math.round(row.cpu * 10);
    case "mem":
      return row.status === "stale" ? -1 : Math.round(row.mem);
    case "seen":
      // The column shows an age, so the newest is the smallest.
      return -Math.floor(row.seen / 1000);
  }
}

function hostRank(host: HostRow, key: SortKey): number {
  switch (key) {
    case "name":
    case "pid":
      return 0;
    case "status":
      return host.stale;
    case "cpu":
      return Math.round(host.cpu * 10);
    case "mem":
      return Math.round(host.mem);
    case "seen":
      return -Math.floor(host.seen / 1000);
  }
}

function plain(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

export function compareProcesses({ key, descending }: Sort): (a: ProcessRow, b: ProcessRow) => number {
  const sign = descending ? -1 : 1;
  if (key === "name") {
    return (a, b) => (a.name === b.name ? 0 : sign * collator.compare(a.name, b.name)) || a.pid - b.pid || plain(a.key, b.key);
  }
  return (a, b) => sign * (rank(a, key) - rank(b, key)) || plain(a.name, b.name) || a.pid - b.pid || plain(a.key, b.key);
}

/** Hosts follow the totals of the sorted column, and their own name where a total means nothing. */
export function compareHosts({ key, descending }: Sort): (a: HostRow, b: HostRow) => number {
  const sign = descending ? -1 : 1;
  const nameSign = key === "name" ? sign : 1;
  return (a, b) =>
    sign * (hostRank(a, key) - hostRank(b, key)) || nameSign * collator.compare(a.host, b.host) || plain(a.host, b.host);
}
