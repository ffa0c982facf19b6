/**
 * Where the token lives. The hub's start-up link carries it in the fragment, which is sent to no server;
 * from there it moves to the tab's session storage, and the address bar is cleaned, so that a shared or
 * bookmarked address gives nothing away while a reload still works.
 */

const STORED = "prom-hub.token";

/** The token in a fragment (`#token=…`), a pasted link, an `Authorization` value, or a bare token; else undefined. */
export function tokenIn(text: string): string | undefined {
  const trimmed = text.trim();
  const hash = trimmed.indexOf("#");
  if (hash >= 0) return new URLSearchParams(trimmed.slice(hash + 1)).get("token")?.trim() || undefined;
  const bare = trimmed.replace(/^bearer\s+/i, "");
  return bare === "" || /\s/.test(bare) ? undefined : bare;
}

/** True if the token was kept. Storage may be switched off. */
export function keepToken(token: string, storage: () => Storage): boolean {
  try {
    storage().setItem(STORED, token);
    return true;
  } catch {
    return false;
  }
}

/** Takes the token from the address bar if there is one, else the one kept earlier. */
export function takeToken(location: Location, history: History, storage: () => Storage): string | undefined {
  const fresh = location.hash === "" ? undefined : tokenIn(location.hash);
  if (fresh !== undefined) {
    if (keepToken(fresh, storage)) history.replaceState(history.state, "", location.pathname + location.search);
    return fresh;
  }
  try {
    return storage().getItem(STORED) ?? undefined;
  } catch {
    return undefined;
  }
}
