/**
 * The virtual grid: only the lines on screen are in the document, in recycled rows. It paints what it is told to
 * paint, once per frame; it never schedules itself except through `request`.
 *
 *     #grid (scrolls)
 *       .head      sticky column headers
 *       .pin       sticky copy of the host whose rows are on screen
 *       .body      as high as all lines; rows stand in it at index × row height
 */

import { moved } from "./keys.js";
import type { HostRow, Line } from "./line.js";
import type { ProcessTable } from "./model.js";
import { HostView, ProcessView, type Paint } from "./rows.js";
import { SparkPainter } from "./spark.js";

/** Rows kept above and below the screen, so that a frame of scrolling shows no gap. */
const OVERSCAN = 6;
/** Rows keep their places this long after the visitor last pointed, typed or scrolled in the grid. */
const HOLD_MS = 2500;
/** Rows are put in document order, for screen readers, when scrolling has paused this long. */
const SETTLE_MS = 200;

type View = ProcessView | HostView;

export interface GridElements {
  readonly grid: HTMLElement;
  readonly body: HTMLElement;
  readonly pin: HTMLElement;
  readonly head: HTMLElement;
}

export class Grid {
  readonly #table: ProcessTable;
  readonly #request: () => void;
  readonly #grid: HTMLElement;
  readonly #body: HTMLElement;
  readonly #pin: HTMLElement;
  readonly #head: HTMLElement;
  readonly #spark: SparkPainter;
  readonly #views = new Map<Line, View>();
  readonly #freeProcesses: ProcessView[] = [];
  readonly #freeHosts: HostView[] = [];
  readonly #pinned = new HostView();
  #pinnedOffset = 0;
  /** The line that is, or was last, focused: the grid's one tab stop. */
  #active: Line | undefined;
  #activeIndex = 0;
  /** Focus the active line's row as soon as it is painted. */
  #focusPending = false;
  #rowHeight = 0;
  #viewport = 0;
  #scrollTop = 0;
  #bodyLines = -1;
  #touched = Number.NEGATIVE_INFINITY;
  #rebound = 0;
  #unordered = false;

  constructor({ grid, body, pin, head }: GridElements, table: ProcessTable, request: () => void) {
    this.#grid = grid;
    this.#body = body;
    this.#pin = pin;
    this.#head = head;
    this.#table = table;
    this.#request = request;
    this.#spark = new SparkPainter(table.history);

    const pinned = this.#pinned.element;
    // A copy for the eye only: not a row of the grid, to tests and screen readers alike.
    for (const name of ["role", "aria-level", "tabindex", "data-row"]) pinned.removeAttribute(name);
    pin.append(pinned);
    pin.addEventListener("click", () => this.#collapsePinned());

    new ResizeObserver(() => this.restyle()).observe(grid);
    grid.addEventListener("scroll", () => {
      // Not the visitor's doing if the grid put it there itself.
      if (grid.scrollTop === this.#scrollTop) return;
      this.#scrollTop = grid.scrollTop;
      this.#touch();
      request();
    });
    body.addEventListener("pointermove", () => this.#touch(), { passive: true });
    body.addEventListener("click", (event) => this.#onClick(event));
    body.addEventListener("focusin", (event) => this.#onFocus(event));
    grid.addEventListener("keydown", (event) => this.#onKey(event));
  }

  /** True while the visitor is busy with the rows, which should then not change places. */
  held(now: number): boolean {
    return now - this.#touched < HOLD_MS;
  }

  /** Measures sizes and colours again: after a resize, a change of theme or of zoom. */
  restyle(): void {
    const style = getComputedStyle(this.#grid);
    const probe = this.#probe();
    this.#rowHeight = Number.parseFloat(style.getPropertyValue("--row-height"));
    this.#viewport = this.#grid.clientHeight - this.#head.offsetHeight;
    this.#scrollTop = this.#grid.scrollTop;
    this.#bodyLines = -1;
    const spark = probe.element.querySelector<HTMLElement>(".cpu .spark");
    const colour = (selector: string): string => {
      const node = probe.element.querySelector(selector);
      return node === null ? "" : getComputedStyle(node).color;
    };
    this.#spark.configure(spark?.clientWidth ?? 0, spark?.clientHeight ?? 0, Math.min(devicePixelRatio, 3), {
      cpu: colour(".cpu .spark"),
      mem: colour(".mem .spark"),
      stale: colour(".pid"),
    });
    probe.element.remove();
    this.#request();
  }

  /** Lays the table out again and keeps in place what the visitor is looking at. */
  layout(sort: boolean): void {
    const { key } = this.#table.sort;
    const anchor = this.#anchor(key === "name" || key === "pid");
    const before = anchor?.index ?? -1;
    this.#table.layout(sort);
    this.#resizeBody();
    if (anchor !== undefined && before >= 0 && anchor.index >= 0 && anchor.index !== before) {
      this.#scrollTo(this.#scrollTop + (anchor.index - before) * this.#rowHeight);
    }
    if (this.#active !== undefined && this.#active.index < 0) this.#activateNeighbour();
    this.#unordered = true;
  }

  /** One frame: recycle rows, bind the ones that came on screen, write what changed. */
  paint(frame: number, now: number): void {
    if (this.#rowHeight === 0) return;
    this.#resizeBody();
    const lines = this.#table.lines;
    const height = this.#rowHeight;
    const first = Math.max(0, Math.floor(this.#scrollTop / height) - OVERSCAN);
    const last = Math.min(lines.length, Math.ceil((this.#scrollTop + this.#viewport) / height) + OVERSCAN);

    for (const [line, view] of this.#views) {
      const inside = line.index >= first && line.index < last;
      if (!inside && !(line === this.#active && line.index >= 0)) this.#release(line, view);
    }
    let bound = false;
    for (let i = first; i < last; i++) {
      const line = lines[i];
      if (line !== undefined && !this.#views.has(line)) {
        this.#bind(line);
        bound = true;
      }
    }
    this.#active ??= lines[0];
    if (this.#active !== undefined && this.#active.index >= 0 && !this.#views.has(this.#active)) this.#bind(this.#active);
    this.#dropSpares();

    const paint: Paint = { now, rowHeight: height, spark: this.#spark, filtered: this.#table.filtered };
    for (const view of this.#views.values()) {
      view.place(height);
      this.#update(view, paint);
      const tabIndex = view.line === this.#active ? 0 : -1;
      if (view.element.tabIndex !== tabIndex) view.element.tabIndex = tabIndex;
    }
    this.#paintPin(paint);

    if (bound) {
      this.#rebound = frame;
      this.#unordered = true;
    }
    if (this.#unordered && frame - this.#rebound > SETTLE_MS) this.#putInOrder();
    if (this.#focusPending) this.#focusActive();
  }

  /** Moves the focus into the grid. */
  focus(): void {
    if (this.#table.lines.length === 0) return;
    this.#focusPending = true;
    this.#request();
  }

  #update(view: View, paint: Paint): void {
    if (view instanceof HostView && view.line !== undefined) this.#table.total(view.line);
    view.update(paint);
  }

  #bind(line: Line): void {
    if (line.kind === "host") {
      const view = this.#freeHosts.pop() ?? new HostView();
      view.bind(line);
      this.#show(line, view);
    } else {
      const view = this.#freeProcesses.pop() ?? new ProcessView();
      view.bind(line);
      this.#show(line, view);
    }
  }

  #show(line: Line, view: View): void {
    this.#views.set(line, view);
    if (!view.element.isConnected) this.#body.append(view.element);
  }

  /** A released row stays in the document until this frame knows that nobody else needs it. */
  #release(line: Line, view: View): void {
    this.#views.delete(line);
    if (view instanceof HostView) this.#freeHosts.push(view);
    else this.#freeProcesses.push(view);
  }

  #dropSpares(): void {
    for (const view of this.#freeHosts) view.element.remove();
    for (const view of this.#freeProcesses) view.element.remove();
  }

  #resizeBody(): void {
    const count = this.#table.lines.length;
    if (count === this.#bodyLines) return;
    this.#bodyLines = count;
    this.#body.style.height = `${count * this.#rowHeight}px`;
    this.#grid.setAttribute("aria-rowcount", String(count + 1));
    // A shorter body may have moved the scroll position.
    this.#scrollTop = this.#grid.scrollTop;
  }

  /** Document order follows row order, without ever moving the focused row: that would take its focus away. */
  #putInOrder(): void {
    this.#unordered = false;
    const views = [...this.#views.values()].sort((a, b) => (b.line?.index ?? 0) - (a.line?.index ?? 0));
    let next: Element | null = null;
    for (const { element } of views) {
      if (element.nextElementSibling !== next && element !== document.activeElement) this.#body.insertBefore(element, next);
      next = element;
    }
  }

  /** The line that should not move on screen: the focused one, else the top one if the order is a lasting one. */
  #anchor(lasting: boolean): Line | undefined {
    const height = this.#rowHeight;
    if (this.#active !== undefined && this.#body.contains(document.activeElement)) {
      const top = this.#active.index * height;
      if (top >= this.#scrollTop - height && top < this.#scrollTop + this.#viewport) return this.#active;
    }
    if (!lasting || this.#scrollTop < height) return undefined;
    return this.#table.lines[Math.floor(this.#scrollTop / height)];
  }

  /** The active line left the grid: its place goes to the line that is there now. */
  #activateNeighbour(): void {
    const focused = this.#body.contains(document.activeElement);
    const lines = this.#table.lines;
    this.#active = lines[Math.min(this.#activeIndex, lines.length - 1)];
    if (focused && this.#active !== undefined) this.#focusPending = true;
  }

  #activate(line: Line): void {
    this.#active = line;
    this.#activeIndex = line.index;
    this.#focusPending = true;
    this.#touch();
    this.#request();
  }

  #focusActive(): void {
    this.#focusPending = false;
    const view = this.#active && this.#views.get(this.#active);
    if (view === undefined || this.#active === undefined) return;
    view.element.focus({ preventScroll: true });
    const height = this.#rowHeight;
    const top = this.#active.index * height;
    // A process row must not hide below the pinned host.
    const covered = this.#active.kind === "process" ? height : 0;
    if (top - covered < this.#scrollTop) this.#scrollTo(top - covered);
    else if (top + height > this.#scrollTop + this.#viewport) this.#scrollTo(top + height - this.#viewport);
  }

  #scrollTo(top: number): void {
    this.#grid.scrollTop = top;
    this.#scrollTop = this.#grid.scrollTop;
    this.#request();
  }

  #touch(): void {
    this.#touched = performance.now();
  }

  #lineAt(target: EventTarget | null): Line | undefined {
    const row = target instanceof Element ? target.closest(".row") : null;
    if (row === null) return undefined;
    for (const [line, view] of this.#views) if (view.element === row) return line;
    return undefined;
  }

  #onClick(event: MouseEvent): void {
    const line = this.#lineAt(event.target);
    if (line === undefined) return;
    this.#activate(line);
    if (line.kind === "host") this.#collapse(line, !line.collapsed);
  }

  #onFocus(event: FocusEvent): void {
    const line = this.#lineAt(event.target);
    if (line === undefined || line === this.#active) return;
    this.#active = line;
    this.#activeIndex = line.index;
    this.#request();
  }

  #onKey(event: KeyboardEvent): void {
    if (event.ctrlKey || event.altKey || event.metaKey || !this.#body.contains(document.activeElement)) return;
    const line = this.#active;
    if (line === undefined) return;
    const lines = this.#table.lines;
    const page = Math.max(1, Math.floor(this.#viewport / this.#rowHeight) - 1);
    const to = moved(event.key, line.index, lines.length, page);
    const next = to === undefined ? undefined : lines[to];
    if (next !== undefined) this.#activate(next);
    else if (line.kind === "host" && event.key === "ArrowRight") {
      const child = lines[line.index + 1];
      if (line.collapsed) this.#collapse(line, false);
      else if (child?.kind === "process") this.#activate(child);
    } else if (line.kind === "host" && event.key === "ArrowLeft") this.#collapse(line, true);
    else if (line.kind === "host" && (event.key === "Enter" || event.key === " ")) this.#collapse(line, !line.collapsed);
    else if (line.kind === "process" && event.key === "ArrowLeft") this.#activate(line.parent);
    else return;
    event.preventDefault();
  }

  #collapse(host: HostRow, collapsed: boolean): void {
    this.#table.setCollapsed(host, collapsed);
    this.#touch();
    this.layout(false);
    this.#request();
  }

  #collapsePinned(): void {
    const host = this.#pinned.line;
    if (host === undefined) return;
    this.#scrollTo(host.index * this.#rowHeight);
    this.#collapse(host, true);
  }

  #paintPin(paint: Paint): void {
    const height = this.#rowHeight;
    const lines = this.#table.lines;
    const top = lines[Math.floor(this.#scrollTop / height)];
    const host = top?.kind === "process" ? top.parent : top;
    const show = host !== undefined && host.index * height < this.#scrollTop;
    if (this.#pin.hidden === show) this.#pin.hidden = !show;
    if (!show) return;
    if (this.#pinned.line !== host) {
      this.#pinned.bind(host);
      this.#pinned.element.removeAttribute("data-host");
    }
    this.#update(this.#pinned, paint);
    // The next host pushes this one out.
    const below = lines[Math.floor(this.#scrollTop / height) + 1];
    const offset = below?.kind === "host" ? Math.min(0, below.index * height - this.#scrollTop - height) : 0;
    if (offset === this.#pinnedOffset) return;
    this.#pinnedOffset = offset;
    this.#pinned.element.style.transform = `translateY(${offset}px)`;
  }

  /** A row only to be measured: sizes and colours come from the style sheet. */
  #probe(): ProcessView {
    const probe = new ProcessView();
    probe.element.removeAttribute("data-row");
    probe.element.style.visibility = "hidden";
    this.#body.append(probe.element);
    return probe;
  }
}
