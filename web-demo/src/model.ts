/**
 * The table behind the page: processes grouped by host, filtered and sorted into the lines the grid shows.
 * Pure: no DOM, no clock. Rows are mutable and live as long as their process, so an update allocates nothing.
 *
 *     apply() ──> rows, hosts ──(marks dirty)──> layout() ──> lines: host, process, process, host, …
 */

import { haystack, matches, words, type StatusFilter } from "./filter.js";
import { History } from "./history.js";
import type { HostRow, Line, ProcessRow } from "./line.js";
import { compareHosts, compareProcesses, rank, type Sort } from "./order.js";
import type { ProcessState, Status } from "./process.js";

export class ProcessTable {
  readonly history = new History();
  readonly #rows = new Map<string, ProcessRow>();
  readonly #hosts = new Map<string, HostRow>();
  readonly #order: HostRow[] = [];
  readonly #lines: Line[] = [];
  #sort: Sort = { key: "name", descending: false };
  #words: readonly string[] = [];
  #status: StatusFilter = "all";
  #collapsed = false;
  #structureChanged = false;
  #orderChanged = false;
  #shown = 0;
  #stale = 0;

  /** What the grid shows, as of the last `layout`. */
  get lines(): readonly Line[] {
    return this.#lines;
  }

  get sort(): Sort {
    return this.#sort;
  }

  get size(): number {
    return this.#rows.size;
  }

  get hosts(): number {
    return this.#hosts.size;
  }

  /** Processes that pass the filter, collapsed or not. */
  get shown(): number {
    return this.#shown;
  }

  get stale(): number {
    return this.#stale;
  }

  get filtered(): boolean {
    return this.#words.length > 0 || this.#status !== "all";
  }

  /** Lines came or went since the last `layout`. */
  get structureChanged(): boolean {
    return this.#structureChanged;
  }

  /** Values of the sorted column changed since the last `layout` that sorted. */
  get orderChanged(): boolean {
    return this.#orderChanged;
  }

  process(key: string): ProcessRow | undefined {
    return this.#rows.get(key);
  }

  /** Takes over a state. An event that the row already shows, as after a reconnect, changes nothing. */
  apply(key: string, eventId: string, state: ProcessState): void {
    const row = this.#rows.get(key) ?? this.#insert(key, state);
    if (row.eventId === eventId) return;
    row.eventId = eventId;
    const before = rank(row, this.#sort.key);
    row.cpu = state.cpu_pct;
    row.mem = state.mem_mb;
    row.seen = state.last_seen_ts;
    if (row.status !== state.status) this.#setStatus(row, state.status);
    row.version++;
    row.parent.version++;
    this.history.push(row.slot, row.cpu, row.mem);
    if (rank(row, this.#sort.key) !== before) {
      row.parent.unsorted = true;
      this.#orderChanged = true;
    }
  }

  /** Removes every process that `keep` does not want. */
  retain(keep: (key: string) => boolean): void {
    for (const [key, row] of this.#rows) {
      if (keep(key)) continue;
      const host = row.parent;
      this.#rows.delete(key);
      this.history.release(row.slot);
      host.rows.splice(host.rows.indexOf(row), 1);
      host.version++;
      row.index = -1;
      if (row.status === "stale") {
        host.stale--;
        this.#stale--;
      } else host.alive--;
      if (row.shown) {
        host.shown--;
        this.#shown--;
      }
      if (host.rows.length === 0) {
        this.#hosts.delete(host.host);
        this.#order.splice(this.#order.indexOf(host), 1);
        host.index = -1;
      }
      this.#structureChanged = true;
    }
  }

  setSort(sort: Sort): void {
    this.#sort = sort;
    for (const host of this.#order) host.unsorted = true;
    this.#orderChanged = true;
  }

  setFilter(text: string): void {
    this.#words = words(text);
    this.#refilter();
  }

  setStatusFilter(status: StatusFilter): void {
    this.#status = status;
    this.#refilter();
  }

  setCollapsed(host: HostRow, collapsed: boolean): void {
    if (host.collapsed === collapsed) return;
    host.collapsed = collapsed;
    host.version++;
    this.#structureChanged = true;
  }

  /** Also for hosts that are yet to come. */
  setAllCollapsed(collapsed: boolean): void {
    this.#collapsed = collapsed;
    for (const host of this.#order) this.setCollapsed(host, collapsed);
  }

  /** Brings a host's totals up to date. */
  total(host: HostRow): HostRow {
    if (host.totalled === host.version) return host;
    let cpu = 0;
    let mem = 0;
    let seen = 0;
    for (const row of host.rows) {
      // What a stale row used last is not used now.
      if (row.status === "alive") {
        cpu += row.cpu;
        mem += row.mem;
      }
      if (row.seen > seen) seen = row.seen;
    }
    host.cpu = cpu;
    host.mem = mem;
    host.seen = seen;
    host.totalled = host.version;
    return host;
  }

  /** Rebuilds `lines`. Without `sort` the rows keep their order, and new ones stand at the end. */
  layout(sort: boolean): void {
    if (sort && (this.#orderChanged || this.#structureChanged)) {
      const compare = compareProcesses(this.#sort);
      for (const host of this.#order) {
        this.total(host);
        if (host.unsorted) host.rows.sort(compare);
        host.unsorted = false;
      }
      this.#order.sort(compareHosts(this.#sort));
      this.#orderChanged = false;
    }
    const lines = this.#lines;
    let length = 0;
    for (const host of this.#order) {
      host.index = host.shown > 0 ? length : -1;
      if (host.shown > 0) lines[length++] = host;
      for (const row of host.rows) {
        const visible = row.shown && !host.collapsed;
        row.index = visible ? length : -1;
        if (visible) lines[length++] = row;
      }
    }
    lines.length = length;
    this.#structureChanged = false;
  }

  #insert(key: string, state: ProcessState): ProcessRow {
    const parent = this.#host(state.host);
    const text = haystack(state.name, state.pid, state.host);
    const row: ProcessRow = {
      kind: "process",
      key,
      name: state.name,
      pid: state.pid,
      parent,
      text,
      slot: this.history.acquire(),
      cpu: 0,
      mem: 0,
      seen: 0,
      status: state.status,
      eventId: "",
      version: 0,
      shown: matches(text, state.status, this.#words, this.#status),
      index: -1,
    };
    this.#rows.set(key, row);
    parent.rows.push(row);
    parent.unsorted = true;
    if (state.status === "stale") {
      parent.stale++;
      this.#stale++;
    } else parent.alive++;
    if (row.shown) {
      parent.shown++;
      this.#shown++;
    }
    this.#structureChanged = true;
    this.#orderChanged = true;
    return row;
  }

  #host(name: string): HostRow {
    let host = this.#hosts.get(name);
    if (host === undefined) {
      host = {
        kind: "host",
        host: name,
        rows: [],
        alive: 0,
        stale: 0,
        shown: 0,
        cpu: 0,
        mem: 0,
        seen: 0,
        version: 0,
        collapsed: this.#collapsed,
        index: -1,
        totalled: -1,
        unsorted: true,
      };
      this.#hosts.set(name, host);
      this.#order.push(host);
    }
    return host;
  }

  #setStatus(row: ProcessRow, status: Status): void {
    const change = status === "stale" ? 1 : -1;
    row.status = status;
    row.parent.stale += change;
    row.parent.alive -= change;
    this.#stale += change;
    this.#refilterRow(row);
  }

  #refilter(): void {
    for (const row of this.#rows.values()) this.#refilterRow(row);
    // Every host row says how many of its processes are shown.
    for (const host of this.#order) host.version++;
  }

  #refilterRow(row: ProcessRow): void {
    const shown = matches(row.text, row.status, this.#words, this.#status);
    if (shown === row.shown) return;
    row.shown = shown;
    const change = shown ? 1 : -1;
    row.parent.shown += change;
    this.#shown += change;
    this.#structureChanged = true;
  }
}
