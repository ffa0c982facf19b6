/** The client, apart from how its module is loaded, which the entries say. */

import { HubError } from "./error.js";
import { named, payloadText } from "./json.js";
import { PromShell, type PromPast, type PromQueue } from "./prom_sdk.js";
import type * as t from "./types.js";
import type { Abortable, As, ClientEvents, HubEvent, PayloadOf } from "./types.js";
import { LiveView } from "./view.js";

/** What differs between a page and Node. */
export interface Environment {
  /** Loads the module; may be called again after it failed. */ load(): Promise<unknown>;
  /** For engines that have none. */ readonly WebSocket?: t.WebSocketConstructor;
}

/** Asks the module for something, under the number of the call. It gives what is wrong with the arguments, or else nothing. */
type Use<O = undefined> = (raw: PromShell, call: number, options: O) => unknown;
type Call = <R, O extends Abortable = Abortable>(use: Use<O | undefined>, options?: O, undo?: (value: R) => unknown, bare?: boolean) => Promise<R>;
interface Open { resolve(value: unknown): void; reject(error: unknown): void }
/** Attempt, most attempts, time left on the lease, lease, whether it was delivered before. */
type Of = [number, number, number, string | null, boolean];
type Listener<K extends keyof ClientEvents> = (event: ClientEvents[K]) => void;

const OPTIONS: Required<{ [K in keyof t.ClientOptions]: string }> = {
  timeoutMs: "number", reconnectMinMs: "number", reconnectMaxMs: "number", maxQueued: "number", maxQueuedBytes: "number",
  batch: "boolean", log: "function", WebSocket: "function",
};

/** The client. One instance, one connection, any number of subscriptions. */
export class Client<M extends t.Topics = t.Topics> implements AsyncDisposable {
  /** @internal */ static environment: Environment;
  readonly #environment: Environment; readonly #url: string;
  readonly #token: t.TokenSource; readonly #options: t.ClientOptions;
  readonly #listeners: { [K in keyof ClientEvents]: Set<Listener<K>> } = { state: new Set(), gap: new Set(), revoked: new Set(), error: new Set() };
  #state: t.ConnectionState = "idle"; #closing: Promise<void> | undefined;
  /** Calls that wait for the module, in their order. */ #early: (() => void)[] = [];
  /** Calls under way, by their numbers. */ readonly #open = new Map<number, Open>();
  /** What forgets the signals of subscriptions. */ readonly #offs = new Map<number, () => void>();
  #raw: PromShell | undefined; #calls = 0; #ended = false; readonly #told = new Set<string>();
  /** Why there will be no module any more. */ #over: HubError | undefined;
  #end!: (error: HubError | undefined) => void;
  /** Resolves when the client has ended, with the error if there was one. */ readonly closed = new Promise<HubError | undefined>((resolve) => (this.#end = resolve));

  /** @throws TypeError for a URL that is not `ws:` or `wss:`, a token that is neither string nor function, and unknown options. */
  constructor(url: string, token: t.TokenSource, options: t.ClientOptions = {}) {
    if (typeof url !== "string") throw new TypeError("url must be a string");
    const { protocol, href, hash } = new URL(url);
    if (protocol !== "ws:" && protocol !== "wss:") throw new TypeError(`a ws: or wss: URL is needed, not ${href}`);
    if (hash) throw new TypeError("url must not have a fragment (#…): the token is the second argument");
    if ((typeof token !== "string" && typeof token !== "function") || token === "") throw new TypeError(`token must be a string or a function, and is ${token === "" ? "empty" : typeof token}`);
    const upsideDown = (): boolean => (options.reconnectMinMs ?? 0) > (options.reconnectMaxMs ?? 30_000);
    const wrong = misfit(options, OPTIONS) ?? (upsideDown() ? "options.reconnectMinMs must not be above reconnectMaxMs, by default 30000" : undefined);
    if (wrong) throw new TypeError(wrong);
    [this.#environment, this.#url, this.#token, this.#options] = [new.target.environment, href, token, { ...options }];
  }

  get state(): t.ConnectionState { return this.#state; }
  /** Connects, as every other call does; resolves when there is a connection. */
  connect(): Promise<void> { return this.#call((raw, call) => raw.connect(call)); }
  /** Resolves as soon as there is a connection, however long it takes; rejects when the client is closed. */
  ready(): Promise<void> { return this.#call((raw, call) => raw.ready(call)); }

  /** Publishes, from the moment of the call; resolves when the event is committed. */
  async publish<K extends string, P extends PayloadOf<M, K>>(topic: K, payload: P & t.Sendable<P>, options?: t.PublishOptions): Promise<t.Published> {
    // Taken down before anything is waited for: the caller may change it meanwhile.
    const text = payloadText(payload);
    return await this.#call((raw, call, options) => raw.publish(call, topic, text, options), options);
  }

  /** Publishes all of them in their order, and resolves with their answers. Rejects with the first error; the others may be committed. */
  async publishMany(events: readonly t.Outgoing[]): Promise<t.Published[]> {
    const list = readable("events must be a list", () => [...events.slice()]);
    list.forEach((event, at) => check(event, { topic: "", payload: "", options: "" }, `events[${at}]`));
    return await Promise.all(list.map(({ topic, payload, options }, at) =>
      this.publish(topic, payload as never, options).catch((error: unknown) => { throw again(error, `events[${at}]: `); })));
  }

  /** Resolves when every publish and settle that was called before has its answer. */
  flush(options?: t.FlushOptions): Promise<void> { return this.#call((raw, call, options) => raw.flush(call, options), options); }

  /** One member of `group` gets each event. Resolves when the hub has confirmed the subscription. */
  async subscribe<T = never, K extends string = string>(topic: K, group: string, handler: t.Handler<As<T, M, K>>, options?: t.SubscribeOptions): Promise<void> {
    await this.#subscribe((raw, call, options) => raw.subscribe(call, topic, group, handler, options, undefined), options);
  }

  /** As `subscribe`, and an event that `store` has marked is acknowledged without the handler. See `DedupeStore`. */
  async subscribeExactlyOnce<T = never, K extends string = string>(
    topic: K, group: string, store: t.DedupeStore, handler: t.Handler<As<T, M, K>>, options?: t.ExactlyOnceOptions): Promise<void> {
    await this.#subscribe((raw, call, options) => raw.subscribe(call, topic, group, handler, options, store ?? null), options);
  }

  /** A subscription whose deliveries are settled by hand. */
  events<T = never, K extends string = string>(topic: K, group: string, options?: t.SubscribeOptions): t.Stream<t.Delivery<As<T, M, K>>> {
    return new Queue(this.#call, (raw, call, options) => raw.queue(call, topic, group ?? null, options), options);
  }

  /** Events of a topic or pattern from now on, without a group: in order, and nothing is stored for it. */
  live<T = never, K extends string = string>(topic: K, handler: (event: HubEvent<As<T, M, K>>) => unknown, options?: t.LiveOptions): Promise<t.Subscription>;
  live<T = never, K extends string = string>(topic: K, options?: t.LiveOptions): t.Stream<HubEvent<As<T, M, K>>>;
  live(topic: string, handler?: unknown, options?: t.LiveOptions): any {
    if (handler === undefined || (typeof handler === "object" && handler !== null)) {
      return new Queue(this.#call, (raw, call, options) => raw.queue(call, topic, undefined, options), handler as t.LiveOptions);
    }
    return this.#subscribe((raw, call, options) => raw.live(call, topic, handler, options), options).then((id) => {
      const close = (): Promise<void> => this.#leave(id);
      return { id, topic, close, [Symbol.asyncDispose]: close };
    });
  }

  /** A live map of the newest event of each key. */ async watch<T = never, K extends string = string>(topic: K, options?: t.WatchOptions<As<T, M, K>>): Promise<t.View<As<T, M, K>>> {
    const view = new LiveView<As<T, M, K>>(topic, this.#guarded);
    const id = await this.#subscribe((raw, call, options) => raw.watch(call, topic, view, options), options);
    return Object.assign(view, { id, end: () => this.#leave(id) });
  }

  /** The past of a topic, page by page. */
  history<T = never, K extends string = string>(topic: K, options?: t.HistoryOptions): AsyncGenerator<HubEvent<As<T, M, K>>, undefined> {
    return this.#past(false, topic, options);
  }

  /** The past of a topic as one stream, which takes no memory on either side. */
  export<T = never, K extends string = string>(topic: K, options?: t.HistoryOptions): AsyncGenerator<HubEvent<As<T, M, K>>, undefined> {
    return this.#past(true, topic, options);
  }

  async *#past<T>(stream: boolean, topic: string, options: t.HistoryOptions | undefined): AsyncGenerator<HubEvent<T>, undefined> {
    const signal = signalOf(options), past = await this.#call<PromPast, t.HistoryOptions>((raw, call, options) => raw.past(call, stream, topic, options), options);
    try {
      let events: HubEvent<T>[] | undefined;
      while ((events = await this.#call<typeof events>((_, call) => past.next(call)))) for (const event of named(events)) (signal?.throwIfAborted(), yield event);
    } catch (error) { throw signal?.aborted ? signal.reason : error; } finally {
      past.cancel();
    }
  }

  /** Leaves a group. Handlers that run finish and acknowledge; no new one starts. */ unsubscribe(topic: string, group: string): Promise<void> { return this.#call((raw, call) => raw.unsubscribe(call, topic, group)); }

  /** Calls `listener` for each event of that name; returns what ends it. */
  on<K extends keyof ClientEvents>(name: K, listener: Listener<K>): () => void {
    const listeners = typeof name === "string" && Object.hasOwn(this.#listeners, name) && this.#listeners[name];
    if (!listeners) throw new TypeError(`name must be one of ${Object.keys(this.#listeners).join(", ")}`);
    if (typeof listener !== "function") throw new TypeError("listener must be a function");
    // A wrapper of its own for each call, so that the same function may listen twice.
    const own: Listener<K> = (event) => listener(event);
    listeners.add(own);
    return () => void listeners.delete(own);
  }

  /** The next event of that name; rejects when the client ends before. */
  once<K extends keyof ClientEvents>(name: K): Promise<ClientEvents[K]> {
    return new Promise((resolve, reject) => {
      const off = this.on(name, (event) => (off(), end(), resolve(event)));
      // Not by `closed`: what waits there stays as long as the client, and this may be called for ever.
      const end = this.on("state", ({ state, error }) => state === "closed" && (off(), end(), reject(error ?? CLOSED)));
      if (this.#state === "closed") void this.closed.then((error) => (off(), end(), reject(error ?? CLOSED)));
    });
  }

  /** Ends the client. With `drain`, what was called and what runs comes to its end first. */
  async close(options: t.CloseOptions = {}): Promise<void> {
    check(options, { drain: "boolean", timeoutMs: "number" });
    const { drain = false, timeoutMs = 10_000 } = options, here = !this.#raw && !(drain && this.#early.length > 0);
    if ((!drain || !this.#closing) && !this.#ended) this.#closing = here ? Promise.resolve(this.#finish(CLOSED)) : this.#call((raw, call) => raw.close(call, drain, timeoutMs));
    await this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> { return this.close({ drain: true }); }

  /** Ends without the module, or after it. */ #finish(over: HubError, fault = false): void {
    this.#over ??= over;
    this.#raw = undefined;
    this.#refuse(over);
    if (this.#state !== "closed") this.#enter({ state: "closed", previous: this.#state, ...(fault && { error: over }) });
  }

  /** Refuses every call under way. */ #refuse(error: unknown): void {
    this.#early = [];
    for (const call of [...this.#open.keys()]) this.#settle(call, false, error);
  }

  async #subscribe<O extends Abortable>(use: Use<O | undefined>, options: O | undefined): Promise<number> {
    const end = (id: number): void => void this.#leave(id).catch(() => undefined);
    const id = await this.#call(use, options, end);
    const signal = signalOf(options), abort = (): void => end(id);
    signal?.addEventListener("abort", abort, { once: true });
    if (signal) this.#offs.set(id, () => signal.removeEventListener("abort", abort));
    return id;
  }

  #leave(id: number): Promise<void> { return this.#call((raw, call) => raw.end(call, id)); }

  /** A call that settles whatever happens, with an error that knows where it was made. `undo` takes back what came after an abort. */
  readonly #call: Call = async <R, O extends Abortable>(use: Use<O | undefined>, given?: O, undo?: (value: R) => void, bare = false): Promise<R> => {
    const signal = signalOf(given);
    // What waits for the module is as it was at the call.
    const options = this.#raw ? given : kept(given);
    const call = ++this.#calls;
    const answer = new Promise<R>((resolve, reject) => {
      this.#open.set(call, signal ? abortable(signal, resolve, reject, undo) : { resolve: resolve as Open["resolve"], reject });
    });
    if (this.#raw || this.#over) this.#run(call, use, options, bare);
    else if (this.#early.push(() => this.#run(call, use, options)) === 1) void this.#load();
    try {
      return await answer;
    } catch (error) {
      // Made here, the stack of an error holds who awaits the call, instead of what heard the answer.
      throw typeof error === "string" ? refusal(error) : again(error);
    }
  };

  /** `bare`: it asks what outlives the client, a queue for what is left in it. */ #run<O>(call: number, use: Use<O>, options: O, bare = false): void {
    if (!this.#raw && !(bare && this.#ended)) return this.#settle(call, false, this.#over);
    try {
      const wrong = use(this.#raw as PromShell, call, options);
      if (wrong !== undefined) this.#settle(call, false, wrong);
    } catch (thrown) {
      // The module refuses by what it gives: what it throws is a fault of its own.
      this.#broken(thrown instanceof Error ? thrown.message : String(thrown));
    }
  }

  #settle(call: number, ok: boolean, value: unknown): void {
    const open = this.#open.get(call);
    this.#open.delete(call);
    open?.[ok ? "resolve" : "reject"](value);
  }

  async #load(): Promise<void> {
    try {
      await this.#environment.load();
      if (this.#over) return;
      const WebSocket = this.#options.WebSocket ?? (globalThis as { WebSocket?: unknown }).WebSocket ?? this.#environment.WebSocket;
      if (!WebSocket) throw new HubError("load_failed", "this engine has no WebSocket; give one in the options", false);
      this.#raw = new PromShell(this.#host, this.#url, this.#token, WebSocket as () => void, this.#options);
      for (const run of this.#early.splice(0)) run();
    } catch (error) {
      this.#refuse(error);
    }
  }

  readonly #broken = (message: string): void => this.#finish(new HubError("internal", `the SDK failed: ${message}`, false), true);

  /** What the module asks of the face. */
  readonly #host = {
    // Where it was made says nothing: a call makes it again, and what an event is about is its cause.
    error: (...of: ConstructorParameters<typeof HubError>) => Object.assign(new HubError(...of), { stack: `HubError: ${of[1]}` }),
    named, ended: (id: number) => (this.#offs.get(id)?.(), this.#offs.delete(id)),
    emit: (name: keyof ClientEvents, event: never) => (name === "state" ? this.#enter(event) : this.#emit(name, event)),
    settle: (call: number, ok: boolean, value: unknown) => this.#settle(call, ok, value),
    published: (call: number, id: string, seq: number, duplicate: boolean) => this.#settle(call, true, { id, seq, duplicate }),
    context: (open: number, ...of: Of): t.DeliveryContext =>
      // Nothing is delivered without the module, and after its end nothing is open.
      new Context(() => (this.#raw?.signal(open) as AbortSignal | undefined) ?? AbortSignal.abort(), (ms) => this.#call((raw, call) => raw.extend(call, open, ms)), ...of),
    deliver: (handler: t.Handler, event: HubEvent, open: number, ...of: Of): boolean => {
      try {
        const answer = handler(event, this.#host.context(open, ...of));
        // Nothing to wait for: what is no object has no `then`.
        if ((typeof answer !== "object" || answer === null) && typeof answer !== "function") return true;
        new Promise((resolve) => resolve(answer)).then(() => this.#raw?.handled(open, false, undefined), (error: unknown) => this.#raw?.handled(open, true, error));
      } catch (error) {
        this.#raw?.handled(open, true, error);
      }
      return false;
    },
    delivery: (open: number, event: HubEvent<never>, ctx: t.DeliveryContext): t.Delivery<never> => ({
      event, ctx, ack: () => this.#call((raw, call) => raw.ack(call, open)), nack: (options) => this.#call((raw, call) => raw.nack(call, open, options)),
    }),
    broken: this.#broken,
  };

  #enter(change: t.StateChange): void {
    this.#state = change.state;
    const raw = this.#raw;
    if (change.state === "closed") {
      this.#end(change.error);
      // What the module has of a client would hold it, and what its functions hold, for ever. Not now: it is the module that says so.
      if (raw) ([this.#over, this.#raw, this.#ended] = [change.error ?? CLOSED, undefined, true], queueMicrotask(() => raw.free()));
    }
    this.#emit("state", change);
  }

  #emit<K extends keyof ClientEvents>(name: K, event: ClientEvents[K]): void {
    const listeners = [...this.#listeners[name]];
    if (name === "error" && listeners.length === 0 && !this.#told.has((event as HubError).code)) {
      this.#told.add((event as HubError).code);
      show(event, "(later ones of this code are not shown: listen with client.on(\"error\", …))");
    }
    for (const listener of listeners) this.#guarded(() => listener(event), name === "error");
  }

  /** A fault of the caller's function does not stop the client: it is an error of its own. */
  readonly #guarded = (call: () => unknown, last = false): void => {
    try { call(); } catch (error) { last || !this.#raw ? show(error) : this.#raw.thrown(error); }
  };
}

function show(...what: unknown[]): void {
  try { console.error("Prom Hub:", ...what); } catch { console.error("Prom Hub: an error that cannot be shown"); }
}

/** The client of an entry. */
export function clientOf(environment: Environment): typeof Client {
  return class PromClient extends Client { static override environment = environment } as typeof Client;
}

class Context implements t.DeliveryContext {
  readonly #signal: () => AbortSignal;

  constructor(
    signal: () => AbortSignal, readonly extend: (ms: number) => Promise<void>, readonly attempt: number, readonly maxAttempts: number,
    readonly ackDeadlineMs: number, readonly lease: string | null, readonly redelivered: boolean,
  ) { this.#signal = signal; }

  get signal(): AbortSignal { return this.#signal(); }
}

/** A subscription as an iterator. */
class Queue<T, O extends Abortable> implements t.Stream<T> {
  readonly #call: Call;
  readonly #queue: Promise<PromQueue>; #off = (): void => undefined;

  constructor(call: Call, open: Use<O | undefined>, options: O | undefined) {
    this.#call = call;
    this.#queue = call<PromQueue, O>(open, options, this.#end);
    const abort = (): void => void this.return(), listen = (signal = options?.signal): void => {
      (signal?.addEventListener("abort", abort, { once: true }), this.#off = () => signal?.removeEventListener("abort", abort));
    };
    this.#queue.then(() => listen(), () => undefined);
  }

  async next(): Promise<IteratorResult<T, undefined>> {
    const queue = await this.#queue;
    const value = await this.#call<T | undefined>((_, call) => queue.next(call), undefined, undefined, true);
    return value === undefined ? (this.#off(), { value: undefined, done: true }) : { value, done: false };
  }

  readonly return = (): Promise<IteratorResult<T, undefined>> =>
    this.#queue.then(this.#end).catch(() => undefined).then(() => ({ value: undefined, done: true }));

  readonly #end = (queue: PromQueue): Promise<void> => (this.#off(), this.#call((_, call) => queue.end(call), undefined, undefined, true));
  readonly [Symbol.asyncDispose] = async (): Promise<void> => void (await this.return());
  readonly [Symbol.asyncIterator] = (): this => this;
}

/** What the caller gave may throw, a revoked proxy for instance. */
function readable<R>(message: string, read: () => R): R { try { return read(); } catch { throw refusal(message); } }

const UNREADABLE = "options must be an object that can be read";
const CLOSED = new HubError("closed", "the client is closed", false);

/** The signal in the options. What is none the module refuses. */
function signalOf(options: Abortable | undefined): AbortSignal | undefined {
  const signal = options && readable(UNREADABLE, () => (typeof options.signal?.throwIfAborted === "function" ? options.signal : undefined));
  signal?.throwIfAborted();
  return signal;
}

/** A call that its signal ends. What comes of it later is taken back. */
function abortable<R>(signal: AbortSignal, resolve: (value: R) => void, reject: (error: unknown) => void, undo: ((value: R) => void) | undefined): Open {
  let late = false;
  const abort = (): void => ((late = true), reject(signal.reason));
  const off = (): void => signal.removeEventListener("abort", abort);
  signal.addEventListener("abort", abort, { once: true });
  return { resolve: (value) => (off(), late ? undo?.(value as R) : resolve(value as R)), reject: (error) => (off(), reject(error)) };
}

/** A copy of plain objects and lists; everything else is as it is. */
function kept<T>(value: T, depth = 0): T {
  return readable(UNREADABLE, () => {
    if (Array.isArray(value)) return [...(value as unknown[])] as T;
    if (depth > 3 || typeof value !== "object" || value === null || Object.prototype.toString.call(value) !== "[object Object]") return value;
    return Object.fromEntries(Object.entries(value).map(([name, entry]) => [name, kept(entry, depth + 1)])) as T;
  });
}

/** The same error, made here. */
function again(error: unknown, where = ""): unknown {
  return error instanceof HubError ? new HubError(error.code, where + error.message, error.retryable, error.retryAfterMs, error.cause) : error;
}

function check(options: unknown, types: Record<string, string>, of?: string): void {
  const wrong = misfit(options, types, of);
  if (wrong) throw refusal(wrong);
}

/** What is wrong with options of these types; of any type, where none is named. */
function misfit(options: unknown, types: Record<string, string>, of = "options"): string | undefined {
  try {
    if (Object.prototype.toString.call(options) !== "[object Object]") return `${of} must be an object`;
    for (const [name, value] of Object.entries(options as object)) {
      if (!Object.hasOwn(types, name)) return `${of}.${name} is not an option; there are ${Object.keys(types).join(", ")}`;
      const type = types[name];
      if (type && value !== undefined && (typeof value !== type || Number.isNaN(value))) return `${of}.${name} must be a ${type}`;
    }
  } catch { return `${of} must be an object that can be read`; }
  return undefined;
}

function refusal(message: string): HubError { return new HubError("bad_frame", message, false); }
