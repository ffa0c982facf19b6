/** A handler that is called only for events its consumer has not marked. */

import type { DedupeStore, DeliveryContext, Handler, HubEvent } from "./types.js";

/** Waits between two tries while the store fails: the first, doubling up to the longest. */
const RETRY_MS = 100;
const LONGEST_RETRY_MS = 5_000;

export class Once<T> {
  readonly #store: DedupeStore;
  readonly #handler: Handler<T>;
  /** Events that are being worked on. The hub may give one again while its handler still runs: after a lost connection. */
  readonly #running = new Map<string, Promise<void>>();
  readonly #stop = new AbortController();

  constructor(store: DedupeStore, handler: Handler<T>) {
    this.#store = store;
    this.#handler = handler;
  }

  readonly handle = async (event: HubEvent<T>, ctx: DeliveryContext): Promise<void> => {
    // Whether the other one failed is its own affair: the mark tells.
    for (let other; (other = this.#running.get(event.id)); ) await other.catch(() => undefined);
    const run = this.#run(event, ctx);
    this.#running.set(event.id, run);
    try {
      await run;
    } finally {
      this.#running.delete(event.id);
    }
  };

  /** What waits for the store gives its event back. */
  readonly stop = (): void => this.#stop.abort();

  async #run(event: HubEvent<T>, ctx: DeliveryContext): Promise<void> {
    if (await this.#insist(() => this.#store.seen(event.id))) return;
    await this.#handler(event, ctx);
    await this.#insist(() => this.#store.mark(event.id));
  }

  /** Asks the store until it answers; once it was told to stop, no more. */
  async #insist<R>(call: () => Promise<R>): Promise<R> {
    for (let wait = RETRY_MS; ; wait = Math.min(2 * wait, LONGEST_RETRY_MS)) {
      try {
        return await call();
      } catch (error) {
        if (this.#stop.signal.aborted) throw error;
        await this.#pause(wait);
      }
    }
  }

  #pause(ms: number): Promise<void> {
    const { signal } = this.#stop;
    return new Promise((resolve) => {
      const end = (): void => {
        clearTimeout(timer);
        signal.removeEventListener("abort", end);
        resolve();
      };
      const timer = setTimeout(end, ms);
      signal.addEventListener("abort", end);
    });
  }
}
