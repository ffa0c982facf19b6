"use client";

/** Hooks for React 18 and later. They close what they opened when a component goes, and open it again in StrictMode. */

import { useCallback, useEffect, useRef, useState, useSyncExternalStore } from "react";

import type { Client } from "./client.js";
import type { HubError } from "./error.js";
import type { As, EventFilter, HubEvent, LiveOptions, Topics, View } from "./types.js";

/** `ready`: the first snapshot is complete, or the subscription stands. `error`: why it could not be opened, or has ended. */
export type Opened = { readonly ready: boolean; readonly error: HubError | undefined };
/** The newest event of each key, in the order the keys came: the same array until something changes; and the live map itself. */
export type Watched<T> = Opened & { readonly entries: ReturnType<View<T>["getSnapshot"]>; readonly view: View<T> | undefined };
type State<R> = { open: unknown; value?: R | undefined; error?: HubError };

const NONE: readonly never[] = [];

/** Watches a topic while the component is mounted. Without a client (not logged in yet, for instance) it waits for one. */
export function useWatch<T = never, M extends Topics = Topics, K extends string = string>(
  client: Client<M> | undefined, topic: K, options: { filter?: EventFilter } = {}): Watched<As<T, M, K>> {
  // A literal is another object at each render: what it says counts.
  const text = JSON.stringify(options);
  const open = useCallback((signal: AbortSignal) => client?.watch<T, K>(topic, { ...JSON.parse(text), signal }), [client, topic, text]);
  const { value: view, ready, error } = useOpened(client, open);
  const subscribe = useCallback((listener: () => void) => view?.subscribe(listener) ?? (() => undefined), [view]);
  const entries = useSyncExternalStore(subscribe, () => view?.getSnapshot() ?? NONE, () => NONE);
  return { entries, view, ready, error };
}

/** Calls `handler` with each event of a topic or pattern, in order, while the component is mounted; the newest handler given. */
export function useSubscription<T = never, M extends Topics = Topics, K extends string = string>(
  client: Client<M> | undefined, topic: K, handler: (event: HubEvent<As<T, M, K>>) => void, options: Omit<LiveOptions, "signal"> = {}): Opened {
  const newest = useRef(handler);
  useEffect(() => void (newest.current = handler));
  const text = JSON.stringify(options);
  const listener = useCallback((event: HubEvent<As<T, M, K>>) => newest.current(event), []);
  const open = useCallback((signal: AbortSignal) => client?.live<T, K>(topic, listener, { ...JSON.parse(text), signal }), [client, topic, text]);
  return useOpened(client, open);
}

function useOpened<M extends Topics, R extends { readonly id: number; close(): Promise<unknown> }>(
  client: Client<M> | undefined, open: (signal: AbortSignal) => Promise<R> | undefined): Opened & { value: R | undefined } {
  const [state, setState] = useState<State<R>>();
  useEffect(() => {
    const abort = new AbortController();
    const set = (more: State<R>): void => { if (!abort.signal.aborted) setState((was) => ({ ...(was?.open === open && was), ...more })); };
    const failed = (error: HubError): void => set({ open, error });
    const opened = open(abort.signal);
    let id: number | undefined;
    opened?.then((value) => (id = value.id, set({ open, value })), failed);
    // Of a client that has ended `ready` says with what error.
    const off = [client?.on("state", ({ state, error }) => state === "closed" && void client.ready().catch((closed: HubError) => failed(error ?? closed))),
      client?.on("revoked", ({ subscription, error }) => subscription === id && failed(error))];
    // Closing what the connection lost already is refused, and is as good.
    return () => (abort.abort(), off.forEach((end) => end?.()), void opened?.then((value) => value.close()).catch(() => undefined));
  }, [open]);
  // What another topic gave is not this one's.
  const now = state?.open === open ? state : undefined;
  return { value: now?.value, error: now?.error, ready: now?.value !== undefined && !now.error };
}
