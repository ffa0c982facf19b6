"use client";

/** Hooks for React 18 and later. They close what they opened when a component goes, and open it again in StrictMode. */

import { useCallback, useEffect, useRef, useState, useSyncExternalStore } from "react";

import type { HubError } from "./error.js";
import type { EventFilter, HubEvent, LiveOptions, View } from "./types.js";

/** `ready`: the first snapshot is complete, or the subscription stands. `error`: why it could not be opened. */
export type Opened = { readonly ready: boolean; readonly error: HubError | undefined };
/** The newest event of each key, in the order the keys came: the same array until something changes; and the live map itself, once `ready`. */
export type Watched<T> = Opened & { readonly entries: ReturnType<View<T>["getSnapshot"]>; readonly view: View<T> | undefined };
type Closable = { close(): Promise<unknown> };
/** What the hooks ask of a client; every `PromClient` has it. */
interface Client {
  watch(topic: string, options: { filter?: EventFilter; signal: AbortSignal }): Promise<View<unknown>>;
  live(topic: string, handler: (event: HubEvent) => void, options: LiveOptions): Promise<Closable>;
}

const NONE: readonly never[] = [];

/** Watches a topic while the component is mounted. Without a client (not logged in yet, for instance) it waits for one. */
export function useWatch<T>(client: Client | undefined, topic: string, options: { filter?: EventFilter } = {}): Watched<T> {
  // A literal is another object at each render: what it says counts.
  const text = JSON.stringify(options);
  const open = useCallback((signal: AbortSignal) => client?.watch(topic, { ...JSON.parse(text), signal }), [client, topic, text]);
  const { value, ready, error } = useOpened(open);
  const view = value as View<T> | undefined;
  const subscribe = useCallback((listener: () => void) => view?.subscribe(listener) ?? (() => undefined), [view]);
  const entries = useSyncExternalStore(subscribe, () => view?.getSnapshot() ?? NONE, () => NONE);
  return { entries, view, ready, error };
}

/** Calls `handler` with each event of a topic or pattern, in order, while the component is mounted; the newest handler given. */
export function useSubscription<T>(client: Client | undefined, topic: string, handler: (event: HubEvent<T>) => void, options: Omit<LiveOptions, "signal"> = {}): Opened {
  const newest = useRef(handler);
  useEffect(() => void (newest.current = handler));
  const text = JSON.stringify(options);
  const listener = useCallback((event: HubEvent) => newest.current(event as HubEvent<T>), []);
  const open = useCallback((signal: AbortSignal) => client?.live(topic, listener, { ...JSON.parse(text), signal }), [client, topic, text]);
  const { ready, error } = useOpened(open);
  return { ready, error };
}

function useOpened<R extends Closable>(open: (signal: AbortSignal) => Promise<R> | undefined): Opened & { value: R | undefined } {
  const [state, setState] = useState<{ open: unknown; value?: R; error?: HubError }>();
  useEffect(() => {
    const abort = new AbortController();
    const opened = open(abort.signal);
    opened?.then((value) => abort.signal.aborted || setState({ open, value }), (error: HubError) => abort.signal.aborted || setState({ open, error }));
    // Closing what the connection lost already is refused, and is as good.
    return () => (abort.abort(), void opened?.then((value) => value.close()).catch(() => undefined));
  }, [open]);
  // What another topic gave is not this one's.
  const now = state?.open === open ? state : undefined;
  return { value: now?.value, error: now?.error, ready: now?.value !== undefined };
}
