/**
 * The page's connection to the hub: one SDK client and its watch on `process.state`. The SDK reconnects by
 * itself; this adds what a page needs on top: a refused token ends in a question to the visitor, anything
 * else that ends the client is tried again.
 */

import { HubError, PromClient, type ConnectionState, type HubEvent, type StateChange, type View } from "@prom-hub/sdk";
import { TOPIC, type ProcessState } from "./process.js";

/** Errors that only another token can mend. */
const REFUSALS: ReadonlySet<string> = new Set(["unauthorized", "no_token", "jwt_invalid", "token_expired", "forbidden"]);

/** Wait before a new client replaces one that ended for another reason than its token. */
const RESTART_MS = 3000;

export interface ConnectionStatus {
  readonly state: ConnectionState;
  /** With `reconnecting`: when the next try is due, by `Date.now()`. */
  readonly retryAt?: number;
  /** Why the connection is not there. */
  readonly error?: HubError;
}

export interface ConnectionHandlers {
  status(status: ConnectionStatus): void;
  /** An event of the watch; `live` is false while a snapshot is being read. */
  event(event: HubEvent<ProcessState>, live: boolean): void;
  /** A snapshot is complete: what the view does not have is gone. */
  snapshot(view: ReadonlyMap<string, HubEvent<ProcessState>>): void;
  /** The hub refused the token; the connection waits for `start` with another one. */
  refused(error: HubError): void;
}

export class Connection {
  readonly #url: string;
  readonly #handlers: ConnectionHandlers;
  /** Ends the current client, if there is one. */
  #stop: () => void = () => undefined;

  constructor(url: string, handlers: ConnectionHandlers) {
    this.#url = url;
    this.#handlers = handlers;
  }

  /** Connects with `token`, in place of any earlier connection. */
  start(token: string): void {
    this.#stop();
    const handlers = this.#handlers;
    const client = new PromClient(this.#url, token);
    let view: View<ProcessState> | undefined;
    let live = false;
    let restart = 0;
    let ended = false;

    const end = (): void => {
      ended = true;
      forget();
      forgetRevoked();
      clearTimeout(restart);
      client.close().catch(() => undefined);
    };
    const fail = (error: HubError): void => {
      if (ended) return;
      end();
      if (REFUSALS.has(error.code)) {
        handlers.status({ state: "closed", error });
        handlers.refused(error);
        return;
      }
      handlers.status({ state: "reconnecting", retryAt: Date.now() + RESTART_MS, error });
      restart = window.setTimeout(() => this.start(token), RESTART_MS);
    };

    const forget = client.on("state", ({ state, error, retryInMs }: StateChange) => {
      if (state === "closed") return fail(error ?? new HubError("closed", "The connection was closed.", true));
      if (state !== "ready") live = false;
      handlers.status({
        state,
        ...(error && { error }),
        ...(retryInMs !== undefined && { retryAt: Date.now() + retryInMs }),
      });
    });
    const forgetRevoked = client.on("revoked", ({ topic, error }) => {
      if (topic === TOPIC) fail(error);
    });
    this.#stop = end;

    const onChange = (event: HubEvent<ProcessState> | undefined): void => {
      if (ended) return;
      if (event !== undefined) return handlers.event(event, live);
      live = true;
      // The first snapshot ends before `watch` has given the view; it is handed on below.
      if (view !== undefined) handlers.snapshot(view);
    };
    client
      .connect()
      .then(() => client.watch<ProcessState>(TOPIC, { onChange }))
      .then((first) => {
        if (ended) return;
        view = first;
        handlers.snapshot(first);
      })
      .catch((error: unknown) => {
        fail(error instanceof HubError ? error : new HubError("internal", String(error), true));
      });
  }
}

/** What the connection label says. */
export function describe({ state, retryAt }: ConnectionStatus, now: number): string {
  switch (state) {
    case "idle":
      return "not connected";
    case "connecting":
      return "connecting…";
    case "ready":
      return "connected";
    case "reconnecting":
      return retryAt === undefined || retryAt <= now ? "reconnecting…" : `reconnecting in ${Math.ceil((retryAt - now) / 1000)} s…`;
    case "closed":
      return "disconnected";
  }
}

/** Why a token was refused, for the visitor. */
export function describeRefusal(error: HubError): string {
  switch (error.code) {
    case "token_expired":
      return "This token has expired. Paste a fresh one to go on.";
    case "jwt_invalid":
      return "The hub does not accept this token: it is damaged, or signed for another hub. The hub prints a link with a good one when it starts in development mode.";
    case "forbidden":
      return `This token may not watch ${TOPIC}. It needs the scope read:${TOPIC}.`;
    default:
      return "The hub did not accept this token.";
  }
}
