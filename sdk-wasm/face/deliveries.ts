/** A subscription as an async iterator of deliveries that are settled by hand. */

import type { Arrival, Engine, Sink } from "./engine.js";
import type { HubError } from "./error.js";
import { contextOf } from "./handler.js";
import type { Delivery } from "./types.js";

/** Where nothing is acknowledged the hub does not wait for us: over so many it is asked to. */
const HIGH_WATER = 1000;
const LOW_WATER = 250;

interface Waiter<T> {
  resolve(result: IteratorResult<Delivery<T>, undefined>): void;
  reject(error: HubError): void;
}

export class Deliveries<T> implements Sink, AsyncIterableIterator<Delivery<T>, undefined> {
  readonly #idle: () => void;
  #engine: Engine | undefined;
  #queue: Arrival[] = [];
  /** What came before it in `#queue` is taken. */
  #head = 0;
  #waiters: Waiter<T>[] = [];
  #open = new Set<Arrival>();
  #paused = false;
  #ended = false;
  #error: HubError | undefined;

  constructor(
    readonly topic: string,
    readonly group: string,
    idle: () => void,
  ) {
    this.#idle = idle;
  }

  /** Whether it is still wanted. */
  start(engine: Engine): boolean {
    this.#engine = engine;
    return !this.#ended;
  }

  get running(): number {
    return this.#open.size;
  }

  event(arrival: Arrival): void {
    this.#queue.push(arrival);
    const waiter = this.#waiters.shift();
    if (waiter) {
      const delivery = this.#next();
      if (delivery) waiter.resolve({ value: delivery, done: false });
    } else if (arrival.ctx.lease === null && !this.#paused && this.#queue.length - this.#head >= HIGH_WATER) {
      this.#paused = true;
      this.#engine?.pause(arrival.subscription, true);
    }
  }

  lost(): void {
    // What was leased comes again on the next connection.
    this.#queue = this.#queue.slice(this.#head).filter((arrival) => arrival.ctx.lease === null);
    this.#head = 0;
    this.#open.clear();
    this.#idle();
  }

  drain(): void {
    this.#queue = [];
    this.#head = 0;
    this.#end();
  }

  ended(error?: HubError): void {
    this.lost();
    this.#end(error);
  }

  #end(error?: HubError): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#error = error;
    if (this.#queue.length > this.#head) return;
    for (const waiter of this.#waiters.splice(0)) this.#finish(waiter);
  }

  /** An error is thrown once; after it the iteration is at its end. */
  #finish({ resolve, reject }: Waiter<T>): void {
    const error = this.#error;
    this.#error = undefined;
    if (error) reject(error);
    else resolve({ value: undefined, done: true });
  }

  next(): Promise<IteratorResult<Delivery<T>, undefined>> {
    return new Promise((resolve, reject) => {
      const delivery = this.#next();
      if (delivery) resolve({ value: delivery, done: false });
      else if (this.#ended) this.#finish({ resolve, reject });
      else this.#waiters.push({ resolve, reject });
    });
  }

  async return(): Promise<IteratorResult<Delivery<T>, undefined>> {
    this.drain();
    await this.#engine?.unsubscribe(this).catch(() => undefined);
    return { value: undefined, done: true };
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  #next(): Delivery<T> | undefined {
    const engine = this.#engine;
    const arrival = this.#queue[this.#head];
    if (!engine || !arrival) return undefined;
    this.#head++;
    if (this.#head > 64 && this.#head * 2 > this.#queue.length) {
      this.#queue = this.#queue.slice(this.#head);
      this.#head = 0;
    }
    if (this.#paused && this.#queue.length - this.#head <= LOW_WATER) {
      this.#paused = false;
      engine.pause(arrival.subscription, false);
    }
    if (arrival.ctx.lease !== null) this.#open.add(arrival);
    const settled = (): void => {
      if (this.#open.delete(arrival)) this.#idle();
    };
    return {
      event: arrival.event,
      ctx: contextOf(engine, arrival),
      ack: () => engine.ack(arrival).finally(settled),
      nack: (options = {}) => engine.nack(arrival, options).finally(settled),
    };
  }
}
