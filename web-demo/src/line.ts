/** What a line of the table holds: a process, or a host with the totals of its processes. Kept up to date by `model.ts`. */

import type { Status } from "./process.js";

export interface ProcessRow {
  readonly kind: "process";
  readonly key: string;
  readonly name: string;
  readonly pid: number;
  readonly parent: HostRow;
  /** What the text filter looks at. */
  readonly text: string;
  /** Slot in the table's history. */
  readonly slot: number;
  cpu: number;
  mem: number;
  seen: number;
  status: Status;
  /** Event the row was last updated from. */
  eventId: string;
  /** Grows with every change a cell could show. */
  version: number;
  /** Passes the filter. */
  shown: boolean;
  /** Position in `lines`, or -1. */
  index: number;
}

export interface HostRow {
  readonly kind: "host";
  readonly host: string;
  /** All processes of the host, in display order after `layout`. */
  readonly rows: ProcessRow[];
  alive: number;
  stale: number;
  /** How many processes pass the filter. */
  shown: number;
  /** Totals over all processes; up to date after `total`. */
  cpu: number;
  mem: number;
  /** Newest `seen` of its processes. */
  seen: number;
  version: number;
  collapsed: boolean;
  index: number;
  /** Version the totals were taken at. */
  totalled: number;
  unsorted: boolean;
}

export type Line = ProcessRow | HostRow;
