/** The client, apart from how its module is loaded: see `index.ts`, `node.ts` and `slim.ts`. */

import { HubError } from "./error.js";
import { payloadText } from "./json.js";
import { PromShell, type PromExport, type PromQueue } from "./prom_sdk.js";
import type * as t from "./types.js";
import type { Abortable, ClientEvents, HubEvent, PayloadOf } from "./types.js";
import { LiveView } from "./view.js";

/** What differs between a page and Node. */
export interface Environment {
  /** Loads the module; may be called again after it failed. */
  load(): Promise<unknown>;
  readonly WebSocket?: t.WebSocketConstructor | undefined;
}

type Use<R, O = undefined> = (raw: PromShell, options: O) => Promise<R>;
type Call = <R>(use: Use<R>) => Promise<R>;
/** The payload that the caller names, or else the one of the topic map. */
type As<T, M, K extends string> = [T] extends [never] ? PayloadOf<M, K> : T;
type Listener<K extends keyof ClientEvents> = (event: ClientEvents[K]) => void;

const OPTIONS: Required<{ [K in keyof t.ClientOptions]: string }> = {
  timeoutMs: "number", reconnectMinMs: "number", reconnectMaxMs: "number", maxQueued: "number", maxQueuedBytes: "number",
  batch: "boolean", log: "function", WebSocket: "function",
};

/** The client. One instance, one connection, any number of subscriptions. */
export class BaseClient<M extends t.Topics = t.Topics> implements AsyncDisposable {
  /** @internal */
  static environment: Environment;
  readonly #environment: Environment;
  readonly #url: string;
  readonly #token: t.TokenSource;
  readonly #options: t.ClientOptions;
  readonly #listeners: { [K in keyof ClientEvents]: Set<Listener<K>> } = {
    state: new Set(), gap: new Set(), revoked: new Set(), error: new Set(),
  };
  #state: t.ConnectionState = "idle";
  #raw: PromShell | undefined;
  #loading: Promise<void> | undefined;
  /** Calls that wait for the module, in their order. */
  #early: ((raw: PromShell | undefined, error?: unknown) => void)[] = [];
  /** Ends of the open calls, for the case that the module ends by a fault of its own. */
  readonly #pending = new Set<(error: unknown) => void>();
  /** Why there will be no module any more. */
  #over: HubError | undefined;
  #closing: Promise<void> | undefined;
  #told = false;
  #end!: (error: HubError | undefined) => void;
  /** Resolves when the client has ended, with the error if there was one. */
  readonly closed = new Promise<HubError | undefined>((resolve) => (this.#end = resolve));

  /** @throws TypeError for a URL that is not `ws:` or `wss:`, a token that is neither string nor function, and unknown options. */
  constructor(url: string, token: t.TokenSource, options: t.ClientOptions = {}) {
    if (typeof url !== "string") throw new TypeError("url must be a string");
    const { protocol, href } = new URL(url);
    if (protocol !== "ws:" && protocol !== "wss:") throw new TypeError(`a ws: or wss: URL is needed, not ${href}`);
    if (typeof token !== "string" && typeof token !== "function") throw new TypeError("token must be a string or a function");
    const wrong = misfit(options, OPTIONS);
    if (wrong) throw new TypeError(wrong);
    this.#environment = new.target.environment;
    this.#url = href;
    this.#token = token;
    this.#options = { ...options };
  }

  get state(): t.ConnectionState {
    return this.#state;
  }

  /** Connects, as every other call does; resolves when there is a connection. */
  connect(): Promise<void> {
    return this.#call((raw) => raw.connect());
  }

  /** Resolves as soon as there is a connection, however long it takes; rejects when the client is closed. */
  async ready(): Promise<void> {
    if (this.#state === "idle") this.connect().catch(() => undefined);
    while (this.#state !== "ready") {
      if (this.#state === "closed") throw (await this.closed) ?? closed();
      await Promise.race([this.once("state"), this.closed]);
    }
  }

  /** Publishes, from the moment of the call; resolves when the event is committed. */
  publish<K extends string, P extends PayloadOf<M, K>>(topic: K, payload: P & t.Sendable<P>, options?: t.PublishOptions): Promise<t.Published> {
    return this.#publish(topic, payload, options);
  }

  async #publish(topic: string, payload: unknown, options: t.PublishOptions | undefined): Promise<t.Published> {
    // Taken down before anything is waited for: the caller may change it meanwhile.
    const text = payloadText(payload);
    return this.#call((raw, options) => raw.publish(topic, text, options) as Promise<t.Published>, options);
  }

  /** Publishes all of them in their order, and resolves with their answers. Rejects with the first error; the others may be committed. */
  async publishMany(events: readonly t.Outgoing[]): Promise<t.Published[]> {
    if (!isList(events)) throw refusal("events must be a list");
    for (let i = 0; i < events.length; i++) {
      if (typeof events[i] !== "object" || events[i] === null) throw refusal(`events[${i}] must be an object`);
    }
    return Promise.all(events.map(({ topic, payload, options }: t.Outgoing) => this.#publish(topic, payload, options)));
  }

  /** Resolves when every publish and settle that was called before has its answer. */
  flush(options?: t.FlushOptions): Promise<void> {
    return this.#call((raw, options) => raw.flush(options), options);
  }

  /** One member of `group` gets each event. Resolves when the hub has confirmed the subscription. */
  async subscribe<T = never, K extends string = string>(topic: K, group: string, handler: t.Handler<As<T, M, K>>, options?: t.SubscribeOptions): Promise<void> {
    await this.#subscribe((raw, options) => raw.subscribe(topic, group, handler, options, undefined), options);
  }

  /**
   * As `subscribe`, and an event that `store` has marked is acknowledged without the handler. While the store rejects or is
   * silent, the event is kept with its lease and the store is asked again; when the client drains, or the subscription ends,
   * it has one more second, and then the event goes back to the group.
   */
  async subscribeExactlyOnce<T = never, K extends string = string>(
    topic: K, group: string, store: t.DedupeStore, handler: t.Handler<As<T, M, K>>, options?: t.ExactlyOnceOptions,
  ): Promise<void> {
    await this.#subscribe((raw, options) => raw.subscribe(topic, group, handler, options, store ?? null), options);
  }

  /** A subscription whose deliveries are settled by hand. */
  events<T = never, K extends string = string>(topic: K, group: string, options?: t.SubscribeOptions): t.Stream<t.Delivery<As<T, M, K>>> {
    return new Queue(this.#call, (raw, options) => raw.queue(topic, group ?? null, options), options);
  }

  /** Events of a topic or pattern from now on, without a group: in order, and nothing is stored for it. */
  live<T = never, K extends string = string>(topic: K, handler: (event: HubEvent<As<T, M, K>>) => unknown, options?: t.LiveOptions): Promise<t.Subscription>;
  live<T = never, K extends string = string>(topic: K, options?: t.LiveOptions): t.Stream<HubEvent<As<T, M, K>>>;
  live(topic: string, handler?: unknown, options?: t.LiveOptions): any {
    if (handler === undefined || (typeof handler === "object" && handler !== null && !isList(handler))) {
      return new Queue(this.#call, (raw, options) => raw.queue(topic, undefined, options), handler as t.LiveOptions);
    }
    return this.#subscribe((raw, options) => raw.live(topic, handler, options), options).then((id) => {
      const close = (): Promise<void> => this.#leave(id);
      return { topic, close, [Symbol.asyncDispose]: close };
    });
  }

  /** A live map of the newest event of each key. */
  async watch<T = never, K extends string = string>(
    topic: K, options?: t.WatchOptions<As<T, M, K>>,
  ): Promise<t.View<As<T, M, K>>> {
    const view = new LiveView<As<T, M, K>>(topic, this.#guarded);
    await this.#subscribe(async (raw, options) => {
      try {
        view.onChange = options?.onChange;
      } catch {
        // The module finds the same, and refuses it.
      }
      const id = (await raw.watch(topic, view, options)) as number;
      view.end = () => this.#leave(id);
      await view.first;
      return id;
    }, options);
    return view;
  }

  /** The past of a topic, page by page. */
  async *history<T = never, K extends string = string>(topic: K, options?: t.HistoryOptions): AsyncGenerator<HubEvent<As<T, M, K>>, undefined> {
    type Page = { events: HubEvent<As<T, M, K>>[]; next: number | null };
    let after: number | null | undefined;
    let given = 0;
    do {
      const page: Page = await this.#call((raw, options) => raw.history(topic, options, given, after, options?.signal) as Promise<Page>, options);
      for (const event of page.events) if (given++ < (options?.limit ?? Infinity)) yield event;
      after = page.next;
    } while (after !== null && given < (options?.limit ?? Infinity));
  }

  /** The past of a topic as one stream, which takes no memory on either side. */
  async *export<T = never, K extends string = string>(topic: K, options?: t.HistoryOptions): AsyncGenerator<HubEvent<As<T, M, K>>, undefined> {
    const stream = await this.#call((raw, options) => raw.export(topic, options, options?.signal) as Promise<PromExport>, options);
    let left = options?.limit ?? Infinity;
    try {
      while (left > 0) {
        const events = await this.#call(() => stream.next() as Promise<HubEvent<As<T, M, K>>[] | undefined>);
        if (!events) return;
        for (const event of events) if (left-- > 0) yield event;
      }
    } finally {
      stream.cancel();
    }
  }

  /** Leaves a group. Handlers that run finish and acknowledge; no new one starts. */
  unsubscribe(topic: string, group: string): Promise<void> {
    return this.#call((raw) => raw.unsubscribe(topic, group));
  }

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

  /** The next event of that name. */
  once<K extends keyof ClientEvents>(name: K): Promise<ClientEvents[K]> {
    let settle!: (event: ClientEvents[K]) => void;
    const off = this.on(name, (event) => (off(), settle(event)));
    return new Promise((resolve) => (settle = resolve));
  }

  /** Ends the client. With `drain`, what was called and what runs comes to its end first. */
  async close(options: t.CloseOptions = {}): Promise<void> {
    const wrong = misfit(options, { drain: "boolean", timeoutMs: "number" });
    if (wrong) throw refusal(wrong);
    const { drain = false, timeoutMs = 10_000 } = options;
    if (!drain || !this.#closing) this.#closing = this.#close(drain, timeoutMs);
    await this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close({ drain: true });
  }

  async #close(drain: boolean, timeoutMs: number): Promise<void> {
    if (this.#raw || (drain && this.#early.length > 0)) return this.#start((raw) => raw.close(drain, timeoutMs), undefined);
    this.#finish(closed(), undefined);
  }

  /** Ends without the module, or after it. */
  #finish(over: HubError, error: HubError | undefined): void {
    this.#over ??= over;
    this.#raw = undefined;
    for (const run of this.#early.splice(0)) run(undefined, over);
    for (const reject of [...this.#pending]) reject(over);
    if (this.#state !== "closed") this.#enter({ state: "closed", previous: this.#state, ...(error && { error }) });
  }

  async #subscribe<O extends Abortable>(use: Use<unknown, O | undefined>, options: O | undefined): Promise<number> {
    const end = (id: unknown): void => void this.#leave(id as number).catch(() => undefined);
    const id = (await this.#call(use, options, end)) as number;
    options?.signal?.addEventListener("abort", () => end(id), { once: true });
    return id;
  }

  #leave(id: number): Promise<void> {
    return this.#call((raw) => raw.end(id));
  }

  /** A call that settles whatever happens, with an error that knows where it was made. `undo` takes back what came after an abort. */
  readonly #call = async <R, O extends Abortable | undefined = undefined>(use: Use<R, O | undefined>, given?: O, undo?: (value: R) => void): Promise<R> => {
    try {
      const signal = signalOf(given);
      signal?.throwIfAborted();
      // What waits for the module is as it was at the call.
      const options = this.#raw ? given : kept(given);
      return await new Promise<R>((resolve, reject) => {
        const settled = (): boolean => {
          signal?.removeEventListener("abort", abort);
          return this.#pending.delete(reject);
        };
        const abort = (): void => void (settled(), reject(signal?.reason));
        this.#pending.add(reject);
        signal?.addEventListener("abort", abort);
        this.#start(use, options).then((value) => (settled() ? resolve(value) : undo?.(value)), (error: unknown) => (settled(), reject(error)));
      });
    } catch (error) {
      // What the module says of an argument. Made here, the stack of an error holds the caller instead of what heard the answer.
      if (typeof error === "string") throw refusal(error);
      throw error instanceof HubError ? new HubError(error.code, error.message, error.retryable, error.retryAfterMs) : error;
    }
  };

  #start<R, O>(use: Use<R, O | undefined>, options: O | undefined): Promise<R> {
    return new Promise((resolve, reject) => {
      const run = (raw: PromShell | undefined, error?: unknown): void => {
        if (!raw) return reject(error);
        try {
          resolve(use(raw, options));
        } catch (thrown) {
          if (typeof thrown === "string") return reject(thrown);
          // The module refuses by promises: what else it throws is a fault of its own.
          this.#broken(thrown instanceof Error ? thrown.message : String(thrown));
          reject(this.#over);
        }
      };
      if (this.#raw || this.#over) return run(this.#raw, this.#over);
      this.#early.push(run);
      this.#loading ??= this.#load();
    });
  }

  async #load(): Promise<void> {
    try {
      await this.#environment.load();
      if (this.#over) return;
      const WebSocket = this.#options.WebSocket ?? this.#environment.WebSocket ?? (globalThis as { WebSocket?: unknown }).WebSocket;
      if (!WebSocket) throw new HubError("load_failed", "this engine has no WebSocket; give one in the options", false);
      const raw = new PromShell(this.#host, this.#url, this.#token, WebSocket as () => void, this.#options);
      this.#raw = raw;
      for (const run of this.#early.splice(0)) run(raw);
    } catch (error) {
      for (const run of this.#early.splice(0)) run(undefined, error);
    } finally {
      this.#loading = undefined;
    }
  }

  #broken(message: string): void {
    const error = new HubError("internal", `the SDK failed: ${message}`, false);
    this.#finish(error, error);
  }

  /** What the module asks of the face. */
  readonly #host = {
    error: (code: string, message: string, retryable: boolean, retryAfterMs?: number) => new HubError(code, message, retryable, retryAfterMs),
    emit: (name: keyof ClientEvents, event: never) => (name === "state" ? this.#enter(event) : this.#emit(name, event)),
    context: (open: number, attempt: number, maxAttempts: number, ackDeadlineMs: number, lease: string | undefined, redelivered: boolean): t.DeliveryContext => {
      // Nothing is delivered without the module, and after its end nothing is open.
      const signal = (): AbortSignal => (this.#raw?.signal(open) as AbortSignal | undefined) ?? AbortSignal.abort();
      const extend = (ms: number): Promise<void> => this.#call((raw) => raw.extend(open, ms));
      return { attempt, maxAttempts, ackDeadlineMs, lease: lease ?? null, redelivered, extend, get signal() { return signal(); } };
    },
    delivery: (open: number, event: HubEvent<never>, ctx: t.DeliveryContext): t.Delivery<never> => ({
      event, ctx, ack: () => this.#call((raw) => raw.ack(open)), nack: (options) => this.#call((raw) => raw.nack(open, options)),
    }),
    attend: (open: number, answer: unknown) =>
      void new Promise((resolve) => resolve(answer)).then(
        () => this.#raw?.handled(open, false, undefined),
        (error: unknown) => this.#raw?.handled(open, true, error),
      ),
    broken: (message: string) => this.#broken(message),
  };

  #enter(change: t.StateChange): void {
    this.#state = change.state;
    if (change.state === "closed") this.#end(change.error);
    this.#emit("state", change);
  }

  #emit<K extends keyof ClientEvents>(name: K, event: ClientEvents[K]): void {
    const listeners = [...this.#listeners[name]];
    if (name === "error" && listeners.length === 0 && !this.#told) {
      this.#told = true;
      console.error("Prom Hub:", event, "(later errors are not shown: listen with client.on(\"error\", …))");
    }
    for (const listener of listeners) this.#guarded(() => listener(event), name === "error");
  }

  /** A fault of the caller's function does not stop the client: it is an error of its own. */
  readonly #guarded = (call: () => unknown, last = false): void => {
    try {
      call();
    } catch (error) {
      let message = "a listener failed";
      try {
        message += `: ${error instanceof Error ? error.message : String(error)}`;
      } catch {
        // It has no text.
      }
      if (last) console.error("Prom Hub:", error);
      else this.#emit("error", new HubError("listener_failed", message, false));
    }
  };
}

/** A subscription as an iterator. */
class Queue<T, O extends Abortable> implements t.Stream<T> {
  readonly #call: Call;
  readonly #queue: Promise<PromQueue>;

  constructor(call: <R>(use: Use<R, O | undefined>, options?: O, undo?: (value: R) => void) => Promise<R>, open: (raw: PromShell, options: O | undefined) => PromQueue, options: O | undefined) {
    this.#call = call as Call;
    this.#queue = call(async (raw, options) => open(raw, options), options, (queue) => void queue.end());
    this.#queue.then(() => options?.signal?.addEventListener("abort", () => void this.return(), { once: true }), () => undefined);
  }

  next(): Promise<IteratorResult<T, undefined>> {
    return this.#call(async () => (await this.#queue).next());
  }

  async return(): Promise<IteratorResult<T, undefined>> {
    await this.#queue.then((queue) => this.#call(() => queue.end())).catch(() => undefined);
    return { value: undefined, done: true };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return();
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}

/** The signal in the options, if there is one and it is one. */
function signalOf(options: Abortable | undefined): AbortSignal | undefined {
  let signal: AbortSignal | undefined;
  try {
    signal = options?.signal;
  } catch {
    throw refusal("options must be an object that can be read");
  }
  if (signal !== undefined && typeof signal?.throwIfAborted !== "function") throw refusal("options.signal must be an AbortSignal");
  return signal;
}

/** A revoked proxy throws whatever it is asked. */
function isList(value: unknown): boolean {
  try {
    return Array.isArray(value);
  } catch {
    return false;
  }
}

/** A copy of plain objects and lists; everything else is as it is. */
function kept<T>(value: T, depth = 0): T {
  try {
    if (Array.isArray(value)) return [...(value as unknown[])] as T;
    if (depth > 3 || typeof value !== "object" || value === null || Object.prototype.toString.call(value) !== "[object Object]") return value;
    return Object.fromEntries(Object.entries(value).map(([name, entry]) => [name, kept(entry, depth + 1)])) as T;
  } catch {
    throw refusal("options must be an object that can be read");
  }
}

/** What is wrong with options of these types. */
function misfit(options: unknown, types: Record<string, string>): string | undefined {
  try {
    if (Object.prototype.toString.call(options) !== "[object Object]") return "options must be an object";
    for (const [name, value] of Object.entries(options as object)) {
      const type = Object.hasOwn(types, name) && types[name];
      if (!type) return `options.${name} is not an option${near(name, Object.keys(types))}`;
      if (value !== undefined && (typeof value !== type || Number.isNaN(value))) return `options.${name} must be a ${type}`;
    }
  } catch {
    return "options must be an object that can be read";
  }
  return undefined;
}

/** Which name was meant: a letter too few or too many, two swapped, another case, the beginning of one. */
function near(given: string, names: string[]): string {
  const letters = (text: string): string[] => [...text.toLowerCase()].sort();
  const apart = (a: string[], b: string[]): number => a.filter((letter) => !b.includes(letter) || b.splice(b.indexOf(letter), 1).length === 0).length + b.length;
  const lower = given.toLowerCase();
  const meant = names.find((name) => (lower.length > 2 && name.toLowerCase().startsWith(lower)) || lower.startsWith(name.toLowerCase()) || apart(letters(given), letters(name)) < 2);
  return meant ? `; did you mean ${meant}?` : "";
}

function refusal(message: string): HubError {
  return new HubError("bad_frame", message, false);
}

function closed(): HubError {
  return new HubError("closed", "the client is closed", false);
}
