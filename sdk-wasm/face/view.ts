/** A live map of the newest event of each key. */

import type { Arrival, Sink } from "./engine.js";
import { HubError } from "./error.js";
import type { HubEvent, View, WatchOptions } from "./types.js";

export class LiveView<T> implements View<T>, Sink {
  readonly group = "";
  readonly #events = new Map<string, HubEvent<T>>();
  readonly #options: WatchOptions<T>;
  readonly #notify: (call: () => void) => void;
  readonly #pattern: boolean;
  /** Keys of the snapshot that is being read; none once it is complete. */
  #seen: Set<string> | undefined = new Set();
  #settle: { resolve(): void; reject(error: HubError): void } | undefined;
  #close: () => Promise<void> = () => Promise.resolve();
  /** Settled when the first snapshot is complete, or there will be none. */
  readonly first: Promise<void>;

  constructor(
    readonly topic: string,
    options: WatchOptions<T>,
    notify: (call: () => void) => void,
  ) {
    this.#options = options;
    this.#notify = notify;
    this.#pattern = topic.includes("*");
    this.first = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject };
    });
    // Whether anybody waits for it depends on how far `watch` came.
    this.first.catch(() => undefined);
  }

  closeWith(close: () => Promise<void>): void {
    this.#close = close;
  }

  event({ event }: Arrival): void {
    if (event.key === undefined) return;
    const key = this.#pattern ? `${event.topic}::${event.key}` : event.key;
    this.#seen?.add(key);
    // After a reconnect most of the snapshot is known already.
    if (this.#events.get(key)?.id === event.id) return;
    this.#events.set(key, event);
    this.#changed(event);
  }

  live(): void {
    const seen = this.#seen;
    this.#seen = undefined;
    if (seen && seen.size < this.#events.size) {
      for (const key of this.#events.keys()) if (!seen.has(key)) this.#events.delete(key);
    }
    this.#settle?.resolve();
    this.#changed(undefined);
  }

  lost(): void {
    this.#seen = new Set();
  }

  ended(error?: HubError): void {
    this.#settle?.reject(error ?? new HubError("closed", "the watch was closed", false));
  }

  #changed(event: HubEvent<T> | undefined): void {
    const { onChange } = this.#options;
    if (onChange) this.#notify(() => onChange(event));
  }

  close(): Promise<void> {
    return this.#close();
  }

  get size(): number {
    return this.#events.size;
  }

  get(key: string): HubEvent<T> | undefined {
    return this.#events.get(key);
  }

  has(key: string): boolean {
    return this.#events.has(key);
  }

  forEach(callback: (value: HubEvent<T>, key: string, map: ReadonlyMap<string, HubEvent<T>>) => void, thisArg?: unknown): void {
    this.#events.forEach((value, key) => callback.call(thisArg, value, key, this));
  }

  entries(): MapIterator<[string, HubEvent<T>]> {
    return this.#events.entries();
  }

  keys(): MapIterator<string> {
    return this.#events.keys();
  }

  values(): MapIterator<HubEvent<T>> {
    return this.#events.values();
  }

  [Symbol.iterator](): MapIterator<[string, HubEvent<T>]> {
    return this.#events.entries();
  }
}
