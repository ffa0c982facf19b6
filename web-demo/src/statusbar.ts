/** The header bar: connection, numbers, and what a screen reader says about them. */

import { describe, type ConnectionStatus } from "./connection.js";
import { formatAge, formatCount, formatRate } from "./format.js";
import { Meter } from "./meter.js";
import type { ProcessTable } from "./model.js";
import type { Page } from "./page.js";

/** Numbers are written at most this often: a figure that changes every frame cannot be read. */
const REFRESH_MS = 250;

export class StatusBar {
  readonly #page: Page;
  readonly #table: ProcessTable;
  readonly #meter = new Meter();
  readonly #statusCounts: readonly { readonly filter: string | undefined; readonly node: Element | null }[];
  #status: ConnectionStatus = { state: "idle" };
  /** Timestamp of the newest event, by the hub's clock. */
  #newest = 0;
  /** A snapshot was read to its end: an empty table means that there is nothing. */
  #loaded = false;
  #painted = Number.NEGATIVE_INFINITY;

  constructor(page: Page, table: ProcessTable) {
    this.#page = page;
    this.#table = table;
    this.#statusCounts = page.statusButtons.map((button) => ({
      filter: button.dataset["filterStatus"],
      node: button.querySelector(".number"),
    }));
  }

  /** An event came; those of a snapshot are no traffic. */
  event(ts: number, live: boolean): void {
    if (ts > this.#newest) this.#newest = ts;
    if (live) this.#meter.hit(performance.now());
  }

  setStatus(status: ConnectionStatus): void {
    const changed = status.state !== this.#status.state;
    this.#status = status;
    document.body.dataset["connection"] = status.state;
    this.#page.connection.title = status.error?.message ?? "";
    // The countdown is for the eye; one sentence per change is enough for the ear.
    if (changed) this.announce(describe({ state: status.state }, 0));
    this.#painted = Number.NEGATIVE_INFINITY;
  }

  loaded(): void {
    this.#loaded = true;
  }

  announce(text: string): void {
    this.#page.announcer.textContent = text;
  }

  /** `now` is the frame's time, `hubNow` the hub's. */
  paint(now: number, hubNow: number): void {
    if (now - this.#painted < REFRESH_MS) return;
    this.#painted = now;
    const { connection, count, rate, lastEvent, empty } = this.#page;
    const table = this.#table;
    write(connection, describe(this.#status, Date.now()));
    write(count, formatCount(table.size));
    write(rate, formatRate(this.#meter.rate(now)));
    write(lastEvent, this.#newest === 0 ? "–" : formatAge(Math.max(0, hubNow - this.#newest)));
    for (const { filter, node } of this.#statusCounts) {
      const number = filter === "all" ? table.size : filter === "stale" ? table.stale : table.size - table.stale;
      write(node, formatCount(number));
    }
    const text = this.#emptyText();
    if (empty.hidden !== (text === "")) empty.hidden = text === "";
    write(empty, text);
  }

  #emptyText(): string {
    if (this.#table.shown > 0) return "";
    if (this.#table.size > 0) return "No process matches the filter.";
    if (this.#loaded) return "No process has sent a heartbeat yet. Start some with: prom heartbeat";
    return "";
  }
}

function write(node: Element | null, text: string): void {
  if (node !== null && node.textContent !== text) node.textContent = text;
}
