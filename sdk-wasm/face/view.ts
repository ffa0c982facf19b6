/** A live map of the newest event of each key. */

import type { HubEvent, View, WatchOptions } from "./types.js";

/** The types show it as a map that is only read: what is written to it the next event undoes. */
export class LiveView<T> extends Map<string, HubEvent<T>> implements View<T> {
  readonly #guarded: (call: () => unknown) => void;
  readonly #listeners = new Set<() => void>();
  #snapshot: [string, HubEvent<T>][] | undefined;
  /** Keys of the snapshot that is being read; none once it is complete. */ #seen: Set<string> | undefined = new Set();
  /** @internal */ onChange: WatchOptions<T>["onChange"];
  id = 0; /** @internal Ends the subscription. */ end = (): Promise<void> => Promise.resolve();

  constructor(readonly topic: string, guarded: (call: () => unknown) => void) {
    super();
    this.#guarded = guarded;
  }

  /** @internal */ event(event: HubEvent<T>): void {
    if (event.key === undefined) return;
    const key = this.topic.includes("*") ? `${event.topic}::${event.key}` : event.key;
    this.#seen?.add(key);
    // After a reconnect most of the snapshot is known already.
    if (this.get(key)?.id === event.id) return;
    this.set(key, event);
    this.#tell(event);
  }

  /** @internal */ live(): void {
    const seen = this.#seen;
    this.#seen = undefined;
    if (seen && seen.size < this.size) for (const key of this.keys()) if (!seen.has(key)) this.delete(key);
    this.#tell(undefined);
  }

  /** @internal */ lost(): void { this.#seen = new Set(); }

  #tell(event: HubEvent<T> | undefined): void {
    this.#snapshot = undefined;
    if (this.onChange) this.#guarded(() => this.onChange?.(event));
    for (const listener of [...this.#listeners]) this.#guarded(listener);
  }

  readonly subscribe = (listener: () => void): (() => void) => {
    const own = (): void => listener();
    return (this.#listeners.add(own), () => void this.#listeners.delete(own));
  };

  readonly getSnapshot = (): readonly (readonly [string, HubEvent<T>])[] => (this.#snapshot ??= [...this]);
  readonly close = (): Promise<void> => this.end();
  readonly [Symbol.asyncDispose] = this.close;
}
