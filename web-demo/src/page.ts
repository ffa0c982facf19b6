/** The elements of index.html that the code works with, looked up once. */

function find<E extends HTMLElement>(id: string, type: new () => E): E {
  const node = document.getElementById(id);
  if (!(node instanceof type)) throw new Error(`index.html has no ${type.name} #${id}`);
  return node;
}

function all(selector: string): readonly HTMLButtonElement[] {
  return [...document.querySelectorAll<HTMLButtonElement>(selector)];
}

export function findPage() {
  return {
    connection: find("connection", HTMLElement),
    announcer: find("announcer", HTMLElement),
    count: find("count", HTMLElement),
    rate: find("rate", HTMLElement),
    lastEvent: find("last-event", HTMLElement),
    theme: find("theme", HTMLButtonElement),
    filter: find("filter", HTMLInputElement),
    statusButtons: all("[data-filter-status]"),
    sortButtons: all("[data-sort]"),
    foldAll: find("fold-all", HTMLButtonElement),
    held: find("held", HTMLElement),
    grid: find("grid", HTMLElement),
    head: find("head", HTMLElement),
    pin: find("pin", HTMLElement),
    body: find("rows", HTMLElement),
    empty: find("empty", HTMLElement),
    tokenPanel: find("token-panel", HTMLFormElement),
    tokenTitle: find("token-title", HTMLElement),
    tokenReason: find("token-reason", HTMLElement),
    tokenInput: find("token-input", HTMLInputElement),
    tokenError: find("token-error", HTMLElement),
  };
}

export type Page = ReturnType<typeof findPage>;
