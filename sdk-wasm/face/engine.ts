/** The shell around one session: its socket, its timer and its promises. */

import { HubError } from "./error.js";
import { PromSession } from "./prom_sdk.js";
import { Tag } from "./tag.js";
import type {
  ClientOptions,
  ConnectionState,
  Gap,
  HubEvent,
  NackOptions,
  Published,
  StateChange,
  SubscribeOptions,
  TokenSource,
  WebSocketConstructor,
  WebSocketLike,
} from "./types.js";

/** What stands in the `ctx` of an EVENT. */
export interface FrameContext {
  readonly attempt: number;
  readonly max_attempts: number;
  readonly ack_deadline_ms: number;
  readonly lease: string | null;
  readonly redelivered: boolean;
}

/** One delivery as it came. */
export interface Arrival {
  readonly subscription: number;
  readonly connection: number;
  readonly event: HubEvent<never>;
  readonly ctx: FrameContext;
}

/** Where a subscription's deliveries go. */
export interface Sink {
  readonly topic: string;
  /** Empty: without a group. */
  readonly group: string;
  event(arrival: Arrival): void;
  /** The snapshot is complete. */
  live?(): void;
  /** The connection is gone, and with it all leases. */
  lost?(): void;
  /** There will be no more: unsubscribed, or why. */
  ended?(error?: HubError): void;
  /** Take no more work. */
  drain?(): void;
  /** Work that a drain waits for. */
  readonly running?: number;
}

/** What belongs to no call. */
export interface Host {
  state(change: StateChange): void;
  gap(gap: Gap): void;
  revoked(sink: Sink, error: HubError): void;
  error(error: HubError): void;
}

interface Pending {
  resolve(value: never): void;
  reject(error: unknown): void;
}

type Answer = readonly unknown[];

/** Longer timers fire at once in every engine. */
const TIMER_MAX = 2 ** 31 - 1;

export class Engine {
  readonly #url: string;
  readonly #token: TokenSource;
  readonly #WebSocket: WebSocketConstructor;
  readonly #host: Host;
  readonly #session: PromSession;
  readonly #pending = new Map<number, Pending>();
  readonly #sinks = new Map<number, Sink>();
  #socket: WebSocketLike | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #timerAt = Infinity;
  #connection = 0;
  #state: ConnectionState = "idle";
  #onClosed: (() => void)[] = [];
  #trap: HubError | undefined;

  constructor(url: string, token: TokenSource, WebSocket: WebSocketConstructor, options: ClientOptions, host: Host) {
    this.#url = url;
    this.#token = token;
    this.#WebSocket = WebSocket;
    this.#host = host;
    this.#session = new PromSession(
      crypto.getRandomValues(new Uint32Array(4)),
      typeof token === "string" ? token : undefined,
      options.timeoutMs,
      options.reconnectMinMs,
      options.reconnectMaxMs,
      options.maxQueued,
      options.maxQueuedBytes,
    );
  }

  get state(): ConnectionState {
    return this.#state;
  }

  /** Number of the present connection: leases of older ones are void. */
  get connection(): number {
    return this.#connection;
  }

  get sinks(): Iterable<Sink> {
    return this.#sinks.values();
  }

  /** Resolves when the session is closed. */
  get closed(): Promise<void> {
    return new Promise((resolve) => {
      if (this.#state === "closed") resolve();
      else this.#onClosed.push(resolve);
    });
  }

  connect(): Promise<void> {
    return this.#request((session, now) => session.connect(now));
  }

  publish(topic: string, payload: string, id: string | undefined, options: string, timeoutMs: number | undefined): Promise<Published> {
    return this.#request((session, now) => session.publish(now, Date.now(), topic, payload, id, options, timeoutMs));
  }

  /** Without a group in `sink`: ephemeral. Resolves with the subscription's number. */
  async subscribe(sink: Sink, options: SubscribeOptions | { from: "snapshot" }): Promise<number> {
    let id = 0;
    try {
      await this.#request((session, now) => {
        const answer: Answer = session.subscribe(now, sink.topic, sink.group || undefined, JSON.stringify(options));
        id = answer[2] as number;
        this.#sinks.set(id, sink);
        return answer;
      });
    } catch (error) {
      this.#sinks.delete(id);
      throw error;
    }
    return id;
  }

  async unsubscribe(sink: Sink): Promise<void> {
    for (const [id, found] of this.#sinks) {
      if (found !== sink) continue;
      this.#sinks.delete(id);
      sink.ended?.();
      return this.#request((session, now) => session.unsubscribe(now, id));
    }
  }

  /** Without an answer: it is kept over reconnects by the session. */
  pause(subscription: number, paused: boolean): void {
    this.#request((session, now) => session.pause(now, subscription, paused)).catch((error) => this.#host.error(error));
  }

  ack({ subscription, connection, event, ctx: { lease } }: Arrival): Promise<void> {
    if (lease === null) return Promise.resolve();
    return this.#request((session, now) => session.ack(now, subscription, connection, event.id, lease, false));
  }

  ackQuietly({ subscription, connection, event, ctx: { lease } }: Arrival): void {
    if (lease !== null) this.#call((session, now) => session.ack(now, subscription, connection, event.id, lease, true));
  }

  nack({ subscription, connection, event, ctx: { lease } }: Arrival, { reason, delayMs, dead = false }: NackOptions): Promise<void> {
    if (lease === null) return Promise.resolve();
    return this.#request((session, now) =>
      session.nack(now, subscription, connection, event.id, lease, false, reason, delayMs, dead),
    );
  }

  nackQuietly({ subscription, connection, event, ctx: { lease } }: Arrival, reason: string): void {
    if (lease === null) return;
    this.#call((session, now) =>
      session.nack(now, subscription, connection, event.id, lease, true, reason, undefined, false),
    );
  }

  extend({ subscription, connection, event, ctx: { lease } }: Arrival, ms: number): Promise<void> {
    if (lease === null) return Promise.resolve();
    return this.#request((session, now) => session.extend(now, subscription, connection, event.id, lease, false, ms));
  }

  extendQuietly({ subscription, connection, event, ctx: { lease } }: Arrival, ms: number): void {
    if (lease !== null) this.#call((session, now) => session.extend(now, subscription, connection, event.id, lease, true, ms));
  }

  drain(): void {
    this.#call((session) => session.drain());
    for (const sink of this.#sinks.values()) sink.drain?.();
  }

  closeWhenSettled(): void {
    this.#call((session) => session.close_when_settled());
  }

  close(): void {
    this.#call((session) => session.close());
  }

  /** Calls the session; the promise is settled by the request it made. */
  #request<T>(call: (session: PromSession, now: number) => Answer): Promise<T> {
    return new Promise((resolve, reject) => {
      this.#call(call, "", { resolve, reject });
    });
  }

  #call(call: (session: PromSession, now: number) => Answer, frame = "", pending?: Pending): void {
    if (this.#trap) return pending?.reject(this.#trap);
    try {
      const answer = call(this.#session, performance.now());
      if (pending) this.#pending.set(answer[1] as number, pending);
      this.#run(answer, frame);
    } catch (error) {
      this.#broken(error, pending);
    }
  }

  /** A trap in the module: nothing can be asked of it any more. */
  #broken(cause: unknown, last?: Pending): void {
    const error = new HubError("internal", `the SDK failed: ${cause instanceof Error ? cause.message : String(cause)}`, false);
    this.#trap = error;
    this.#shut(1000, "");
    const pending = [...this.#pending.values()];
    this.#pending.clear();
    last?.reject(error);
    for (const { reject } of pending) reject(error);
    if (this.#state !== "closed") this.#enter("closed", error);
  }

  /** Does what the session says. */
  #run(answer: Answer, frame: string): void {
    for (let at = 3; at < answer.length; ) {
      const next = (): never => answer[at++] as never;
      const error = (code: string = next()): HubError => new HubError(code, next(), next(), next());
      switch (next() as number) {
        case Tag.Open:
          this.#open();
          break;
        case Tag.Send:
          this.#socket?.send(next());
          break;
        case Tag.Shut:
          this.#shut(next(), next());
          break;
        case Tag.NeedToken:
          this.#askToken(next());
          break;
        case Tag.State: {
          const state: ConnectionState = next();
          const retryInMs: number | undefined = next();
          const code: string | undefined = next();
          this.#enter(state, code === undefined ? undefined : error(code), retryInMs);
          break;
        }
        case Tag.Done:
          this.#take(next())?.resolve(undefined as never);
          break;
        case Tag.Published:
          this.#take(next())?.resolve({ id: next(), seq: next(), duplicate: next() } as never);
          break;
        case Tag.Failed:
          this.#take(next())?.reject(error());
          break;
        case Tag.Event:
          this.#event(next(), next(), frame);
          break;
        case Tag.Live:
          this.#sinks.get(next())?.live?.();
          break;
        case Tag.Gap: {
          const sink = this.#sinks.get(next());
          const gap = { topic: next(), group: sink?.group ?? "", from: next(), to: next(), reason: next() };
          this.#host.gap(gap);
          break;
        }
        case Tag.Revoked: {
          const id: number = next();
          const why = error();
          const sink = this.#sinks.get(id);
          this.#sinks.delete(id);
          sink?.ended?.(why);
          if (sink) this.#host.revoked(sink, why);
          break;
        }
        case Tag.Error:
          this.#host.error(error());
          break;
      }
    }
    this.#arm(answer[0] as number);
  }

  #take(request: number): Pending | undefined {
    const pending = this.#pending.get(request);
    this.#pending.delete(request);
    return pending;
  }

  #event(subscription: number, connection: number, frame: string): void {
    const sink = this.#sinks.get(subscription);
    if (!sink) return;
    let parsed: Pick<Arrival, "event" | "ctx">;
    try {
      parsed = JSON.parse(frame) as Pick<Arrival, "event" | "ctx">;
    } catch (error) {
      return this.#host.error(new HubError("bad_json", `a frame of the hub: ${String(error)}`, false));
    }
    sink.event({ subscription, connection, event: parsed.event, ctx: parsed.ctx });
  }

  #enter(state: ConnectionState, error?: HubError, retryInMs?: number): void {
    const previous = this.#state;
    this.#state = state;
    const sinks = [...this.#sinks.values()];
    if (previous === "ready") for (const sink of sinks) sink.lost?.();
    if (state === "closed") {
      clearTimeout(this.#timer);
      this.#sinks.clear();
      for (const sink of sinks) sink.ended?.(error);
      for (const resolve of this.#onClosed.splice(0)) resolve();
    }
    this.#host.state({ state, previous, ...(error && { error }), ...(retryInMs !== undefined && { retryInMs }) });
  }

  #open(): void {
    this.#connection = this.#session.connection();
    let socket: WebSocketLike;
    try {
      socket = new this.#WebSocket(this.#url);
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      queueMicrotask(() => this.#call((session, now) => session.lost(now, undefined, reason)));
      return;
    }
    this.#socket = socket;
    let problem = "";
    socket.onopen = () => {
      if (this.#socket === socket) this.#call((session, now) => session.opened(now));
    };
    socket.onmessage = ({ data }) => {
      if (this.#socket === socket && typeof data === "string") this.#call((session, now) => session.frame(now, data), data);
    };
    socket.onclose = ({ code, reason }) => {
      if (this.#socket !== socket) return;
      this.#socket = undefined;
      this.#call((session, now) => session.lost(now, code, reason || problem));
    };
    // The end follows. Browsers say no more than that; `ws` says what went wrong.
    socket.onerror = ({ message }: { message?: unknown }) => {
      if (typeof message === "string") problem = message;
    };
  }

  #shut(code: number, reason: string): void {
    const socket = this.#socket;
    this.#socket = undefined;
    try {
      socket?.close(code, reason);
    } catch {
      // It was not open yet, or is closed already.
    }
  }

  #askToken(asked: number): void {
    const token = this.#token;
    const give = (text: string | undefined, problem: string): void =>
      this.#call((session, now) => session.token(now, asked, text, problem));
    Promise.resolve()
      .then(() => (typeof token === "string" ? token : token()))
      .then(
        (text: unknown) => give(typeof text === "string" ? text : undefined, "the token provider gave no string"),
        (error: unknown) => give(undefined, `the token provider failed: ${error instanceof Error ? error.message : String(error)}`),
      );
  }

  #arm(deadline: number): void {
    // A timer that fires too early does no harm, one that is set for every frame would.
    if (deadline >= this.#timerAt || this.#state === "closed") return;
    clearTimeout(this.#timer);
    this.#timerAt = deadline;
    const wait = Math.min(Math.max(deadline - performance.now(), 0), TIMER_MAX);
    this.#timer = setTimeout(() => {
      this.#timerAt = Infinity;
      this.#call((session, now) => session.tick(now));
    }, Math.ceil(wait) || 0);
  }
}
