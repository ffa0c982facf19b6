/**
 * The hub's clock, as far as a page can tell. Ages are of the hub's timestamps, and a browser's clock may be
 * minutes off. The least difference between arrival and timestamp of live events is the offset plus the best
 * latency seen; small differences are latency and are left alone.
 */

const IGNORED_MS = 2000;

export class HubClock {
  #offset = Number.POSITIVE_INFINITY;
  #outdated = true;

  /** Only of events that were live when they came: a snapshot's are old, not late. */
  observe(eventTs: number, now: number): void {
    const offset = now - eventTs;
    if (this.#outdated || offset < this.#offset) this.#offset = offset;
    this.#outdated = false;
  }

  /** The next observation replaces what was measured: clocks are set, and computers sleep. */
  remeasure(): void {
    this.#outdated = true;
  }

  now(local: number): number {
    return Number.isFinite(this.#offset) && Math.abs(this.#offset) > IGNORED_MS ? local - this.#offset : local;
  }
}
