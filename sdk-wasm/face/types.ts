/** The public types of the SDK. Units: every duration and timestamp is in milliseconds; timestamps count from the Unix epoch. */

/** Any value JSON can carry. Numbers must be finite. */
export type Json = null | boolean | number | string | Json[] | { [name: string]: Json };

/** A JWT, or a function that gives one. A function is asked before every connect and again shortly before the token expires. */
export type TokenSource = string | (() => string | Promise<string>);

/** An event as the hub stores it. */
export interface HubEvent<T = unknown> {
  /** Unique in the hub. */
  readonly id: string;
  /** Position in its topic: 1, 2, 3… without gaps. */
  readonly seq: number;
  /** When the event was made. */
  readonly ts: number;
  readonly topic: string;
  /** What the event is about; `watch` keeps the newest event of each key. */
  readonly key?: string;
  /** The publisher's session or stream id, if it gave one. */
  readonly sid?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly tags?: readonly string[];
  /** Id of the event that led to this one. */
  readonly caused_by?: string;
  readonly payload: T;
}

export interface PublishOptions {
  /** Chosen by the publisher so that a repeat is recognised; default: a new UUIDv7, kept over reconnects. */
  readonly id?: string;
  /** Default: the hub's clock at commit. */
  readonly ts?: number;
  readonly key?: string;
  readonly sid?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly tags?: readonly string[];
  readonly caused_by?: string;
  /** How long to wait for the hub's answer, reconnects included; default 30000. */
  readonly timeoutMs?: number;
}

/** The hub's answer to a publish: the event is committed. */
export interface Published {
  readonly id: string;
  readonly seq: number;
  /** An event with this id was committed before; nothing new was stored. */
  readonly duplicate: boolean;
}

/** Where a group without a cursor starts. */
export type StartFrom = "latest" | "earliest" | "ts" | "afterId" | "afterSeq";

export interface SubscribeOptions {
  /** Default `latest`. Counts only when the group has no cursor yet. */
  readonly from?: StartFrom;
  readonly ts?: number;
  readonly afterId?: string;
  readonly afterSeq?: number;
  /** Unsettled events this member may hold; default 100, at most 10000. */
  readonly maxInFlight?: number;
  /** Lease on each event; default 30000, at least 1000. */
  readonly ackTimeoutMs?: number;
  /** Deliveries before an event becomes a dead letter; default 5. */
  readonly maxAttempts?: number;
  /** Read-ahead hint. */
  readonly batchSize?: number;
  /** `"key"`: at most one unsettled event per key, in order. */
  readonly ordered?: "key";
  /** Default `explicit`. `none` settles an event as it is sent. */
  readonly ack?: "explicit" | "none";
  readonly filter?: EventFilter;
  /** Extend the lease while the handler runs; default true. */
  readonly autoExtend?: boolean;
}

/** An event passes when it has one of `keys`, one of `tags`, and all of `headers`. */
export interface EventFilter {
  readonly keys?: readonly string[];
  readonly tags?: readonly string[];
  readonly headers?: Readonly<Record<string, string>>;
}

/** Options of `subscribeExactlyOnce`, which acknowledges. */
export type ExactlyOnceOptions = Omit<SubscribeOptions, "ack">;

/**
 * Remembers which events one consumer, that is one group on one topic or pattern, has handled. Two consumers need two
 * stores, or ids with the consumer's name before them: what one has marked the other would not handle.
 *
 * The handler is not called again once `mark` has resolved. A crash between the handler's effect and the mark calls it
 * again, so the effect happens at least once; who needs it exactly once makes effect and mark in one transaction of his
 * own and leaves `mark` nothing to do. Within this client an event is handled once at a time. Two processes can have the
 * same event at the same time, when one lost its connection while its handler still runs: then both handlers run.
 *
 * Marks must be kept longer than a group may be behind plus the time its events may come again.
 */
export interface DedupeStore {
  /** Whether the event is marked. Rejects, or takes over 10 s: cannot tell now; it is asked again. */
  seen(id: string): Promise<boolean>;
  /** Marks the event; may be called again for the same. Resolves: the mark is there to stay. Rejects, or takes over 10 s: asked again. */
  mark(id: string): Promise<unknown>;
}

/** One delivery of one event to this member. */
export interface DeliveryContext {
  /** How often the event was delivered to the group, from 1. */
  readonly attempt: number;
  readonly maxAttempts: number;
  /** Time that was left on the lease when the frame was sent. */
  readonly ackDeadlineMs: number;
  /** Fencing token of this delivery; `null` where there is nothing to acknowledge. */
  readonly lease: string | null;
  readonly redelivered: boolean;
  /** Extends the lease to `ms` from now. */
  extend(ms: number): Promise<void>;
}

/** Resolves: acknowledged. Throws: negatively acknowledged with the error's message. */
export type Handler<T = unknown> = (event: HubEvent<T>, ctx: DeliveryContext) => unknown;

/** A delivery taken from `events()`, to be settled by hand. */
export interface Delivery<T = unknown> {
  readonly event: HubEvent<T>;
  readonly ctx: DeliveryContext;
  ack(): Promise<void>;
  nack(options?: NackOptions): Promise<void>;
}

export interface NackOptions {
  readonly reason?: string;
  /** Wait before the next delivery; default: the hub's backoff. */
  readonly delayMs?: number;
  /** No further try: straight to the dead letters. */
  readonly dead?: boolean;
}

export type ConnectionState = "idle" | "connecting" | "ready" | "reconnecting" | "closed";

export interface StateChange {
  readonly state: ConnectionState;
  readonly previous: ConnectionState;
  /** Why the connection was lost or closed. */
  readonly error?: import("./error.js").HubError;
  /** With `reconnecting`: time until the next try. */
  readonly retryInMs?: number;
}

/** Events of this subscription were skipped by the hub. */
export interface Gap {
  readonly topic: string;
  readonly group: string;
  readonly from: number;
  readonly to: number;
  readonly reason: string;
}

/** The hub ended this subscription, for instance because a new token no longer allows it. */
export interface Revoked {
  readonly topic: string;
  /** Empty for a watch. */
  readonly group: string;
  readonly error: import("./error.js").HubError;
}

export interface ClientEvents {
  state: StateChange;
  gap: Gap;
  revoked: Revoked;
  /** Errors that belong to no call, for instance of an acknowledgement. */
  error: import("./error.js").HubError;
}

export interface WatchOptions<T> {
  readonly filter?: EventFilter;
  /** Called after each change, and once with `undefined` when the snapshot is complete. */
  readonly onChange?: (event: HubEvent<T> | undefined) => void;
}

/**
 * A live map: the newest event of each key; for a pattern, of each `<topic>::<key>`. After a reconnect it takes a new
 * snapshot by itself.
 * `watch()` resolves when the first snapshot is complete.
 */
export interface View<T> extends ReadonlyMap<string, HubEvent<T>> {
  readonly topic: string;
  close(): Promise<void>;
}

export interface ClientOptions {
  /** How long `connect` and other calls wait; default 30000. */
  readonly timeoutMs?: number;
  /** Reconnect backoff, full jitter; defaults 250 and 30000. */
  readonly reconnectMinMs?: number;
  readonly reconnectMaxMs?: number;
  /** Publishes kept while away, count and bytes; defaults 10000 and 16 MiB. Beyond that `publish` rejects with `overloaded`. */
  readonly maxQueued?: number;
  readonly maxQueuedBytes?: number;
  /** A WebSocket constructor, for engines that have none; default `globalThis.WebSocket`, else the package `ws`. */
  readonly WebSocket?: WebSocketConstructor;
}

export interface WebSocketLike {
  binaryType: string;
  onopen: ((event: never) => unknown) | null;
  onmessage: ((event: { data: unknown }) => unknown) | null;
  onclose: ((event: { code: number; reason: string }) => unknown) | null;
  onerror: ((event: never) => unknown) | null;
  send(data: string): void;
  close(code?: number, reason?: string): void;
}

export type WebSocketConstructor = new (url: string) => WebSocketLike;

export interface CloseOptions {
  /** Finish running handlers and their acknowledgements first; default false. */
  readonly drain?: boolean;
  /** At most this long; default 10000. */
  readonly timeoutMs?: number;
}

/** The client. One instance, one connection, any number of subscriptions. */
export interface Client {
  readonly state: ConnectionState;
  connect(): Promise<void>;
  publish<T = Json>(topic: string, payload: T, options?: PublishOptions): Promise<Published>;
  subscribe<T = unknown>(topic: string, group: string, handler: Handler<T>, options?: SubscribeOptions): Promise<void>;
  /**
   * As `subscribe`, and an event that `store` has marked is acknowledged without the handler. While the store rejects or is
   * silent, the event is kept with its lease and the store is asked again; when the client drains, or the subscription ends,
   * it has one more second, and then the event goes back to the group.
   */
  subscribeExactlyOnce<T = unknown>(
    topic: string,
    group: string,
    store: DedupeStore,
    handler: Handler<T>,
    options?: ExactlyOnceOptions,
  ): Promise<void>;
  events<T = unknown>(topic: string, group: string, options?: SubscribeOptions): AsyncIterableIterator<Delivery<T>>;
  watch<T = unknown>(topic: string, options?: WatchOptions<T>): Promise<View<T>>;
  unsubscribe(topic: string, group: string): Promise<void>;
  on<K extends keyof ClientEvents>(name: K, listener: (event: ClientEvents[K]) => void): () => void;
  close(options?: CloseOptions): Promise<void>;
}
