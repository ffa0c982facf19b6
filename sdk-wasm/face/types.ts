/** The public types of the SDK. Units: every duration and timestamp is in milliseconds; timestamps count from the Unix epoch. */
/// <reference lib="esnext.disposable" preserve="true" />

import type { HubError } from "./error.js";

/** What a client's topics carry: `new PromClient<{ "orders.paid": Order }>(…)`. Topics that are not named carry anything. */
export type Topics = object;
export type PayloadOf<M, K extends string> = K extends keyof M ? M[K] : unknown;
/** The payload that the caller names, or else the one of the topic map. */
export type As<T, M, K extends string> = [T] extends [never] ? PayloadOf<M, K> : T;

/** What JSON would lose or alter; a publish refuses it. A property may be `undefined`: it counts as absent. */
type Lost = undefined | bigint | symbol | ((...args: never) => unknown) | ReadonlyMap<unknown, unknown> | ReadonlySet<unknown>
  | RegExp | Error | ArrayBuffer | ArrayBufferView | PromiseLike<unknown>;
export type Sendable<P> = P extends { toJSON(...args: never): unknown } ? P
  : P extends Lost ? never
  : P extends object ? { [N in keyof P]: undefined extends P[N] ? Sendable<Exclude<P[N], undefined>> | undefined : Sendable<P[N]> }
  : P;

/** A JWT, or a function that gives one. A function is asked before every connect and again shortly before the token expires. */
export type TokenSource = string | (() => string | Promise<string>);
/** An event as the hub stores it. */
export interface HubEvent<T = unknown> {
  /** Unique in the hub. */ readonly id: string;
  /** Position in its topic: 1, 2, 3… without gaps. */ readonly seq: number;
  /** When the event was made. */ readonly ts: number;
  readonly topic: string; /** Who published: the `sub` of the publisher's token, if it has one. The hub writes it. */ readonly by?: string;
  /** What the event is about; `watch` keeps the newest event of each key. */ readonly key?: string;
  /** The publisher's session or stream id, if it gave one. */ readonly sid?: string;
  readonly headers?: Headers; readonly tags?: Strings;
  /** Ids of the events that led to this one. */ readonly causedBy?: Strings;
  readonly payload: T;
}
/** The signal ends what it was given to: a wait, `history` and `export` reject with its reason; a subscription, an iterator, a view end. */
export interface Abortable { readonly signal?: AbortSignal | undefined }

export interface PublishOptions extends Abortable {
  /** Chosen by the publisher so that a repeat is recognised; default: a new UUIDv7, kept over reconnects. */ readonly id?: string | undefined;
  /** Default: the hub's clock at commit. */ readonly ts?: number | undefined;
  readonly key?: string | undefined; readonly sid?: string | undefined; readonly causedBy?: string | Strings | undefined;
  readonly headers?: Headers | undefined; readonly tags?: Strings | undefined;
  /** How long to wait for the hub's answer, reconnects included; default 30000. */ readonly timeoutMs?: number | undefined;
}
/** The event is committed. `duplicate`: it was before, and nothing new was stored. */
export interface Published { readonly id: string; readonly seq: number; readonly duplicate: boolean }
/** Where to start. A group starts where it was; this counts only when it has no cursor yet. */
export type Start =
  | { readonly from?: "latest" | "earliest" | undefined }
  | { readonly from: "ts"; readonly ts: number }
  | { readonly from: "afterId"; readonly afterId: string }
  | { readonly from: "afterSeq"; readonly afterSeq: number };

type Strings = readonly string[];
type Headers = Readonly<Record<string, string>>;
/** An event passes when it has one of `keys`, one of `tags`, and all of `headers`. An empty one counts as absent. */
export interface EventFilter { readonly keys?: Strings; readonly tags?: Strings; readonly headers?: Headers }
/** Default start: `latest`. */
export type SubscribeOptions = Start & Abortable & {
  /** Unsettled events this member may hold; default 100, at most 10000. */ readonly maxInFlight?: number;
  /** Lease on each event; default 30000, at least 1000, at most twelve hours. */ readonly ackTimeoutMs?: number;
  /** Deliveries before an event becomes a dead letter; default 5. */ readonly maxAttempts?: number;
  /** Read-ahead hint. */ readonly batchSize?: number;
  /** `"key"`: at most one unsettled event per key, in order. */ readonly ordered?: "key";
  /** Default `explicit`. `none` settles an event as it is sent. */ readonly ack?: "explicit" | "none";
  readonly filter?: EventFilter;
  /** Extend the lease while the handler runs; default true. */ readonly autoExtend?: boolean;
  /** A handler that takes longer has failed: its event is given back and `ctx.signal` aborts. Default: no limit. */ readonly handlerTimeoutMs?: number;
};

/** Options of `subscribeExactlyOnce`, which acknowledges. */
export type ExactlyOnceOptions = SubscribeOptions & { readonly ack?: "explicit" };
/** Options of `live`. Default start: `latest`. */
export type LiveOptions = Start & Abortable & { readonly filter?: EventFilter };
/** Options of `history` and `export`. Default start: `earliest`; default limit: all there is. */
export type HistoryOptions = Start & Abortable & { readonly limit?: number };

/**
 * Remembers which events one consumer (one group on one topic or pattern) has handled; another needs another store. `id` is the
 * event's; on a pattern `<topic>::<id>`. The handler is not called again once `mark` has resolved. A crash between effect and
 * mark calls it again: for exactly once make both in one transaction and leave `mark` nothing to do. Keep marks longer than a
 * group may be behind plus the time its events may come again. While the store rejects or is silent, the event is kept with
 * its lease; when the client drains, or the subscription ends, the store has one more second, then the event goes back.
 */
export interface DedupeStore {
  /** Whether the event is marked. Rejects, or takes over 10 s: cannot tell now; it is asked again. */ seen(id: string): Promise<boolean>;
  /** Marks the event; may be called again for the same. Resolves: the mark is there to stay. Rejects, or takes over 10 s: asked again. */
  mark(id: string): Promise<unknown>;
}

/** One delivery of one event to this member. */
export interface DeliveryContext {
  /** How often the event was delivered to the group, from 1. */ readonly attempt: number;
  readonly maxAttempts: number; readonly redelivered: boolean;
  /** Time that was left on the lease when the frame was sent. */ readonly ackDeadlineMs: number;
  /** Fencing token of this delivery; `null` where there is nothing to acknowledge. */ readonly lease: string | null;
  /** Aborts when the lease is lost, the handler's time is over, or the client is closed; one that leaves a group lets handlers finish. */ readonly signal: AbortSignal;
  /** Extends the lease to `ms` from now. */ extend(ms: number): Promise<void>;
}

/** Resolves: acknowledged. Throws: negatively acknowledged with the error's message. */
export type Handler<T = unknown> = (event: HubEvent<T>, ctx: DeliveryContext) => unknown;

/** A delivery taken from `events()`, to be settled by hand. */
export interface Delivery<T = unknown> {
  readonly event: HubEvent<T>; readonly ctx: DeliveryContext;
  ack(): Promise<void>; nack(options?: NackOptions): Promise<void>;
}

/** `delayMs`: wait before the next delivery, by default the hub's backoff. `dead`: no further one, straight to the dead letters. */
export interface NackOptions { readonly reason?: string; readonly delayMs?: number; readonly dead?: boolean }
export type ConnectionState = "idle" | "connecting" | "ready" | "reconnecting" | "closed";

export interface StateChange {
  readonly state: ConnectionState; readonly previous: ConnectionState;
  /** Why the connection was lost or closed. */ readonly error?: HubError;
  /** With `reconnecting`: time until the next try. */ readonly retryInMs?: number;
}

/** Events of a subscription were skipped by the hub, first and last seq. `group` is empty without one. */
export interface Gap { readonly topic: string; readonly group: string; readonly from: number; readonly to: number; readonly reason: string }
/** The hub ended a subscription, for instance because a new token no longer allows it. */
export interface Revoked { /** The `id` of a view or live subscription. */ readonly subscription: number; readonly topic: string; readonly group: string; readonly error: HubError }

export interface ClientEvents {
  state: StateChange; gap: Gap; revoked: Revoked;
  /** Errors that belong to no call: of a handler that failed, a listener, an acknowledgement; `cause` is what was thrown. One that nobody listens to is told once on the console. */ error: HubError;
}

export interface WatchOptions<T> extends Abortable {
  readonly filter?: EventFilter | undefined;
  /** Called after each change, and once with `undefined` when the snapshot is complete. */
  readonly onChange?: ((event: HubEvent<T> | undefined) => void) | undefined;
}

/**
 * A live map: the newest event of each key; for a pattern, of each `<topic>::<key>`. After a reconnect it takes a new
 * snapshot by itself. `watch()` resolves when the first snapshot is complete.
 */
export interface View<T> extends ReadonlyMap<string, HubEvent<T>>, AsyncDisposable {
  readonly id: number; readonly topic: string;
  /** Calls `listener` after each change; returns what ends that. */ subscribe(listener: () => void): () => void;
  /** All entries; the same array until something changes. */ getSnapshot(): readonly (readonly [string, HubEvent<T>])[];
  close(): Promise<void>;
}

/** What `live` with a handler gives. */
export interface Subscription extends AsyncDisposable { readonly id: number; readonly topic: string; close(): Promise<void> }
/** Ends with `break`, `return()`, its signal, or the client. */
export interface Stream<T> extends AsyncIterableIterator<T, undefined>, AsyncDisposable { [Symbol.asyncIterator](): this }

export interface ClientOptions {
  /** How long `connect` and other calls wait; default 30000. */ readonly timeoutMs?: number;
  /** Reconnect backoff, full jitter; defaults 250 and 30000. */ readonly reconnectMinMs?: number; readonly reconnectMaxMs?: number;
  /** Publishes kept while away, count and bytes; defaults 10000 and 16 MiB. Beyond that `publish` rejects with `overloaded`. */ readonly maxQueued?: number;
  readonly maxQueuedBytes?: number;
  /** Several frames in one message, where the hub agrees; default true. */ readonly batch?: boolean;
  /** Called with a line for each frame and state. Tokens are not in it. */ readonly log?: (line: string) => void;
  /** A WebSocket constructor, for engines that have none; default `globalThis.WebSocket`, else the package `ws`. */ readonly WebSocket?: WebSocketConstructor;
}

/** A WebSocket as browsers have it: an `EventTarget` with `send` and `close`. */
export type WebSocketConstructor = new (url: string) => {
  binaryType: string; readonly readyState: number;
  addEventListener(name: string, listener: (event: never) => void): void;
  removeEventListener(name: string, listener: (event: never) => void): void;
  send(data: string): void; close(code?: number, reason?: string): void;
};

/** `drain`: finish what was called, and running handlers and what they publish, first, for at most `timeoutMs`, by default 10000. */
export interface CloseOptions { readonly drain?: boolean; readonly timeoutMs?: number }
/** It takes at most `timeoutMs`, by default 30000. */
export interface FlushOptions extends Abortable { readonly timeoutMs?: number }
/** One event of `publishMany`. */
export interface Outgoing { readonly topic: string; readonly payload: unknown; readonly options?: PublishOptions }
