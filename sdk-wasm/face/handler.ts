/** A subscription with a handler: resolves, acknowledged; throws, given back. */

import type { Arrival, Engine, Sink } from "./engine.js";
import type { DeliveryContext, Handler, SubscribeOptions } from "./types.js";

const LEASE_MS = 30_000;

/** Timers of hidden pages may fire once a minute: leases there are long enough not to need them sooner. */
const HIDDEN_LEASE_MS = 300_000;

const page = typeof document === "undefined" ? undefined : document;

/** The context a handler or an iterator is given. */
export function contextOf(engine: Engine, arrival: Arrival): DeliveryContext {
  const { attempt, max_attempts, ack_deadline_ms, lease, redelivered } = arrival.ctx;
  return {
    attempt,
    maxAttempts: max_attempts,
    ackDeadlineMs: ack_deadline_ms,
    lease,
    redelivered,
    extend: (ms) => engine.extend(arrival, ms),
  };
}

/** What an error says, as the reason of a NACK. */
function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message || error.name : String(error);
}

export class HandlerSink<T> implements Sink {
  readonly #engine: Engine;
  readonly #handler: Handler<T>;
  readonly #leaseMs: number;
  readonly #extends: boolean;
  readonly #idle: () => void;
  readonly #stop: (() => void) | undefined;
  readonly #keepers = new Set<Keeper>();
  #running = 0;

  /** `stop` tells the handler that it should wait for nothing any more. */
  constructor(
    engine: Engine,
    readonly topic: string,
    readonly group: string,
    handler: Handler<T>,
    options: SubscribeOptions,
    idle: () => void,
    stop?: () => void,
  ) {
    this.#engine = engine;
    this.#handler = handler;
    this.#leaseMs = options.ackTimeoutMs ?? LEASE_MS;
    this.#extends = options.autoExtend ?? true;
    this.#idle = idle;
    this.#stop = stop;
    page?.addEventListener("visibilitychange", this.#hide);
  }

  get running(): number {
    return this.#running;
  }

  event(arrival: Arrival): void {
    void this.#handle(arrival);
  }

  lost(): void {
    for (const keeper of this.#keepers) keeper.stop();
    this.#keepers.clear();
  }

  drain(): void {
    this.#stop?.();
  }

  ended(): void {
    this.lost();
    this.#stop?.();
    page?.removeEventListener("visibilitychange", this.#hide);
  }

  async #handle(arrival: Arrival): Promise<void> {
    this.#running++;
    const keeper = this.#extends && arrival.ctx.lease !== null ? this.#keep(arrival) : undefined;
    try {
      await this.#handler(arrival.event, contextOf(this.#engine, arrival));
      this.#engine.ackQuietly(arrival);
    } catch (error) {
      this.#engine.nackQuietly(arrival, reasonOf(error));
    } finally {
      keeper?.stop();
      if (keeper) this.#keepers.delete(keeper);
      this.#running--;
      this.#idle();
    }
  }

  #keep(arrival: Arrival): Keeper {
    const keeper = new Keeper(this.#engine, arrival, this.#leaseMs);
    this.#keepers.add(keeper);
    return keeper;
  }

  readonly #hide = (): void => {
    if (page?.hidden) for (const keeper of this.#keepers) keeper.extend();
  };
}

/** Extends one lease when half of it has passed, for as long as its handler runs. */
class Keeper {
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly engine: Engine,
    private readonly arrival: Arrival,
    private readonly leaseMs: number,
  ) {
    const left = arrival.ctx.ack_deadline_ms;
    if (page?.hidden && left < HIDDEN_LEASE_MS) this.extend();
    else this.#later(left);
  }

  extend(): void {
    clearTimeout(this.#timer);
    if (this.engine.connection !== this.arrival.connection) return;
    const ms = page?.hidden ? Math.max(this.leaseMs, HIDDEN_LEASE_MS) : this.leaseMs;
    this.engine.extendQuietly(this.arrival, ms);
    this.#later(ms);
  }

  stop(): void {
    clearTimeout(this.#timer);
  }

  #later(ms: number): void {
    this.#timer = setTimeout(() => this.extend(), Math.min(ms / 2, 2 ** 30));
  }
}
