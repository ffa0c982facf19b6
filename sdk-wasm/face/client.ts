/** The client, apart from how its module is loaded: see `index.ts`, `node.ts` and `slim.ts`. */

import { Deliveries } from "./deliveries.js";
import { Engine, type Host } from "./engine.js";
import { HubError } from "./error.js";
import { HandlerSink } from "./handler.js";
import { payloadText } from "./json.js";
import { Once } from "./once.js";
import type {
  Client,
  ClientEvents,
  ClientOptions,
  CloseOptions,
  ConnectionState,
  DedupeStore,
  Delivery,
  ExactlyOnceOptions,
  Handler,
  Json,
  Published,
  PublishOptions,
  SubscribeOptions,
  TokenSource,
  View,
  WatchOptions,
  WebSocketConstructor,
} from "./types.js";
import { LiveView } from "./view.js";

/** What differs between a page and Node. */
export interface Environment {
  /** Loads the module; may be called again after it failed. */
  load(): Promise<unknown>;
  readonly WebSocket?: WebSocketConstructor | undefined;
}

type Listener<K extends keyof ClientEvents> = (event: ClientEvents[K]) => void;

export class BaseClient implements Client {
  readonly #environment: Environment;
  readonly #url: string;
  readonly #token: TokenSource;
  readonly #options: ClientOptions;
  readonly #listeners: { [K in keyof ClientEvents]: Set<Listener<K>> } = {
    state: new Set(),
    gap: new Set(),
    revoked: new Set(),
    error: new Set(),
  };
  #engine: Engine | undefined;
  #closing: Promise<void> | undefined;
  #onIdle: (() => void)[] = [];

  /** @internal */
  constructor(environment: Environment, url: string, token: TokenSource, options: ClientOptions = {}) {
    const { protocol } = new URL(url);
    if (protocol !== "ws:" && protocol !== "wss:") throw new TypeError(`a ws: or wss: URL is needed, not ${url}`);
    this.#environment = environment;
    this.#url = url;
    this.#token = token;
    this.#options = options;
  }

  get state(): ConnectionState {
    return this.#engine?.state ?? (this.#closing ? "closed" : "idle");
  }

  async connect(): Promise<void> {
    const engine = await this.#ready();
    await engine.connect();
  }

  async publish<T = Json>(topic: string, payload: T, options: PublishOptions = {}): Promise<Published> {
    // Taken down before anything is waited for: the caller may change the object meanwhile.
    const text = payloadText(payload);
    const { id, timeoutMs, ...others } = options;
    const opts = JSON.stringify(others);
    const engine = await this.#ready();
    return engine.publish(topic, text, id, opts, timeoutMs);
  }

  async subscribe<T = unknown>(topic: string, group: string, handler: Handler<T>, options: SubscribeOptions = {}): Promise<void> {
    await this.#handle(topic, group, handler, options);
  }

  async subscribeExactlyOnce<T = unknown>(
    topic: string,
    group: string,
    store: DedupeStore,
    handler: Handler<T>,
    options: ExactlyOnceOptions = {},
  ): Promise<void> {
    // Not only for the compiler: what is settled before it is handled can promise nothing.
    if ((options as SubscribeOptions).ack === "none") {
      throw new HubError("bad_frame", "exactly once needs acknowledgements: ack must be explicit", false);
    }
    const once = new Once(store, handler);
    await this.#handle(topic, group, once.handle, options, once.stop);
  }

  async #handle<T>(topic: string, group: string, handler: Handler<T>, options: SubscribeOptions, stop?: () => void): Promise<void> {
    const engine = await this.#ready();
    const sink = new HandlerSink(engine, topic, requireGroup(group), handler, options, this.#idle, stop);
    try {
      await engine.subscribe(sink, options);
    } catch (error) {
      sink.ended();
      throw error;
    }
  }

  events<T = unknown>(topic: string, group: string, options: SubscribeOptions = {}): AsyncIterableIterator<Delivery<T>> {
    const deliveries = new Deliveries<T>(topic, group, this.#idle);
    this.#ready()
      .then((engine) => {
        requireGroup(group);
        return deliveries.start(engine) ? engine.subscribe(deliveries, options) : undefined;
      })
      .catch((error: HubError) => deliveries.ended(error));
    return deliveries;
  }

  async watch<T = unknown>(topic: string, options: WatchOptions<T> = {}): Promise<View<T>> {
    const engine = await this.#ready();
    const view = new LiveView<T>(topic, options, guarded);
    view.closeWith(() => engine.unsubscribe(view));
    const { filter } = options;
    await engine.subscribe(view, { from: "snapshot", ...(filter && { filter }) });
    await view.first;
    return view;
  }

  async unsubscribe(topic: string, group: string): Promise<void> {
    const engine = await this.#ready();
    for (const sink of engine.sinks) {
      if (sink.topic === topic && sink.group === group && group !== "") return engine.unsubscribe(sink);
    }
    throw new HubError("not_subscribed", `no subscription of ${topic} as ${group}`, false);
  }

  on<K extends keyof ClientEvents>(name: K, listener: Listener<K>): () => void {
    // A wrapper of its own for each call, so that the same function may listen twice.
    const own: Listener<K> = (event) => listener(event);
    this.#listeners[name].add(own);
    return () => void this.#listeners[name].delete(own);
  }

  close(options: CloseOptions = {}): Promise<void> {
    this.#closing ??= this.#close(options);
    return this.#closing;
  }

  async #close({ drain = false, timeoutMs = 10_000 }: CloseOptions): Promise<void> {
    const engine = this.#engine;
    if (!engine) return;
    if (drain) {
      const over = timer(timeoutMs);
      engine.drain();
      await Promise.race([this.#whenIdle(engine), over.promise]);
      engine.closeWhenSettled();
      await Promise.race([engine.closed, over.promise]);
      over.cancel();
    }
    engine.close();
  }

  /** The engine, once the module is loaded. Calls go on in the order they were made. */
  async #ready(): Promise<Engine> {
    if (!this.#engine) await this.#environment.load();
    if (this.#engine) return this.#engine;
    if (this.#closing) throw new HubError("closed", "the client is closed", false);
    const WebSocket = this.#options.WebSocket ?? this.#environment.WebSocket ?? globalWebSocket();
    if (!WebSocket) throw new HubError("load_failed", "this engine has no WebSocket; give one in the options", false);
    this.#engine = new Engine(this.#url, this.#token, WebSocket, this.#options, this.#host);
    return this.#engine;
  }

  readonly #host: Host = {
    state: (change) => this.#emit("state", change),
    gap: (gap) => this.#emit("gap", gap),
    revoked: ({ topic, group }, error) => this.#emit("revoked", { topic, group, error }),
    error: (error) => this.#emit("error", error),
  };

  #emit<K extends keyof ClientEvents>(name: K, event: ClientEvents[K]): void {
    for (const listener of [...this.#listeners[name]]) guarded(() => listener(event));
  }

  #whenIdle(engine: Engine): Promise<void> {
    return new Promise((resolve) => {
      const check = (): void => {
        for (const sink of engine.sinks) if (sink.running) return void this.#onIdle.push(check);
        resolve();
      };
      check();
    });
  }

  readonly #idle = (): void => {
    for (const check of this.#onIdle.splice(0)) check();
  };
}

/** A fault of the caller's function is the caller's: it surfaces as an uncaught error and does not stop the client. */
function guarded(call: () => void): void {
  try {
    call();
  } catch (error) {
    queueMicrotask(() => {
      throw error;
    });
  }
}

function requireGroup(group: string): string {
  if (!group) throw new HubError("bad_topic", "a group is required", false);
  return group;
}

function globalWebSocket(): WebSocketConstructor | undefined {
  return (globalThis as { WebSocket?: unknown }).WebSocket as WebSocketConstructor | undefined;
}

function timer(ms: number): { promise: Promise<void>; cancel(): void } {
  let cancel = (): void => undefined;
  const promise = new Promise<void>((resolve) => {
    const id = setTimeout(resolve, ms);
    cancel = () => clearTimeout(id);
  });
  return { promise, cancel };
}
