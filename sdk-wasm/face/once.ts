/** A handler that is called only for events its consumer has not marked. */

import type { DedupeStore, DeliveryContext, Handler, HubEvent } from "./types.js";

/** Waits between two tries while the store fails: the first, doubling up to the longest. */
const RETRY_MS = 100;
const LONGEST_RETRY_MS = 5_000;
/** A store that takes longer for an answer is asked again. */
const STORE_TIMEOUT_MS = 10_000;
/** How long the store may still take for an answer after the handling was stopped. */
const GRACE_MS = 1_000;

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

  /** What waits for the store gives its event back, soon: an answer that is on its way may still arrive. */
  readonly stop = (): void => this.#stop.abort();

  async #run(event: HubEvent<T>, ctx: DeliveryContext): Promise<void> {
    if (await this.#insist(() => this.#store.seen(event.id))) return;
    await this.#handler(event, ctx);
    await this.#insist(() => this.#store.mark(event.id));
  }

  /** Calls the store until it answers; after a stop, no more than once. */
  async #insist<R>(call: () => Promise<R>): Promise<R> {
    for (let wait = RETRY_MS; ; wait = Math.min(2 * wait, LONGEST_RETRY_MS)) {
      try {
        return await this.#inTime(call());
      } catch (error) {
        if (this.#stop.signal.aborted) throw error;
        await this.#pause(wait);
      }
    }
  }

  /** The store's answer. One that hangs must keep neither the event nor a client that drains. */
  async #inTime<R>(answer: Promise<R>): Promise<R> {
    const { signal } = this.#stop;
    let timer: ReturnType<typeof setTimeout>;
    let hurry = (): void => undefined;
    const over = new Promise<never>((_, reject) => {
      const within = (ms: number): void => {
        timer = setTimeout(() => reject(new Error(`no answer of the dedupe store within ${ms} ms`)), ms);
      };
      hurry = () => {
        clearTimeout(timer);
        within(GRACE_MS);
      };
      within(signal.aborted ? GRACE_MS : STORE_TIMEOUT_MS);
    });
    signal.addEventListener("abort", hurry);
    try {
      return await Promise.race([answer, over]);
    } finally {
      clearTimeout(timer!);
      signal.removeEventListener("abort", hurry);
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
