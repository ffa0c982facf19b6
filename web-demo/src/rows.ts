/** The DOM of one row. Rows are recycled: `bind` gives one to another line, `update` writes what changed. */

import { formatAge, formatCount, formatCpu, formatMemory } from "./format.js";
import type { HostRow, Line, ProcessRow } from "./line.js";
import type { SparkPainter } from "./spark.js";

/** Above this share of a core the number is emphasised. */
const BUSY_CPU = 80;

/** What all rows of one paint share. */
export interface Paint {
  /** The hub's time. */
  readonly now: number;
  readonly rowHeight: number;
  readonly spark: SparkPainter;
  readonly filtered: boolean;
}

function element(tag: string, className: string, role?: string): HTMLElement {
  const node = document.createElement(tag);
  if (className !== "") node.className = className;
  if (role !== undefined) node.setAttribute("role", role);
  return node;
}

/** A text node that is written only when its text changes. */
class Text {
  readonly #node = document.createTextNode("");

  constructor(parent: Node) {
    parent.appendChild(this.#node);
  }

  set(text: string): void {
    if (this.#node.data !== text) this.#node.data = text;
  }
}

abstract class RowView<L extends Line> {
  readonly element: HTMLElement;
  #line: L | undefined;
  #index = -1;
  #rowHeight = 0;

  protected constructor(className: string, level: number) {
    this.element = element("div", `row ${className}`, "row");
    this.element.setAttribute("aria-level", String(level));
    this.element.tabIndex = -1;
  }

  get line(): L | undefined {
    return this.#line;
  }

  bind(line: L): void {
    this.#line = line;
  }

  /** Puts the row where its line is. A line that is gone keeps its last place until it is released. */
  place(rowHeight: number): void {
    const index = this.#line?.index ?? -1;
    if (index < 0 || (index === this.#index && rowHeight === this.#rowHeight)) return;
    this.#index = index;
    this.#rowHeight = rowHeight;
    this.element.style.transform = `translateY(${index * rowHeight}px)`;
    // Row 1 is the header.
    this.element.setAttribute("aria-rowindex", String(index + 2));
  }
}

export class ProcessView extends RowView<ProcessRow> {
  readonly #status: Text;
  readonly #name: Text;
  readonly #pid: Text;
  readonly #cpu: Text;
  readonly #mem: Text;
  readonly #seen: Text;
  readonly #nameCell: HTMLElement;
  readonly #cpuCell: HTMLElement;
  readonly #cpuSpark: CanvasRenderingContext2D;
  readonly #memSpark: CanvasRenderingContext2D;
  #version = -1;
  #generation = -1;
  #ageTick = Number.NaN;

  constructor() {
    super("process", 2);
    this.element.dataset["row"] = "process";

    const status = element("div", "cell status", "gridcell");
    status.appendChild(element("span", "mark")).setAttribute("aria-hidden", "true");
    this.#status = new Text(status.appendChild(element("span", "visually-hidden")));

    this.#nameCell = element("div", "cell name", "gridcell");
    this.#nameCell.dataset["cell"] = "name";
    this.#name = new Text(this.#nameCell);

    const pid = element("div", "cell pid", "gridcell");
    this.#pid = new Text(pid);

    const cpu = metric("cpu");
    this.#cpuCell = cpu.value;
    this.#cpu = new Text(cpu.value);
    this.#cpuSpark = cpu.context;
    const mem = metric("mem");
    this.#mem = new Text(mem.value);
    this.#memSpark = mem.context;

    const seen = element("div", "cell seen", "gridcell");
    seen.appendChild(element("span", "stale-tag")).textContent = "stale";
    const age = seen.appendChild(element("span", "age"));
    age.dataset["cell"] = "seen";
    this.#seen = new Text(age);

    this.element.append(status, this.#nameCell, pid, cpu.cell, mem.cell, seen);
  }

  override bind(row: ProcessRow): void {
    super.bind(row);
    this.#version = -1;
    this.#ageTick = Number.NaN;
    const { dataset } = this.element;
    dataset["key"] = row.key;
    dataset["pid"] = String(row.pid);
    this.#name.set(row.name);
    this.#nameCell.title = row.name;
    this.#pid.set(String(row.pid));
  }

  update({ now, spark }: Paint): void {
    const row = this.line;
    if (row === undefined) return;
    const age = Math.max(0, now - row.seen);
    const changed = this.#version !== row.version;
    const ageTick = Math.floor(age / 1000);
    if (changed || ageTick !== this.#ageTick) {
      this.#ageTick = ageTick;
      this.#seen.set(formatAge(age));
    }
    if (changed) {
      this.#version = row.version;
      this.#status.set(row.status);
      if (this.element.dataset["status"] !== row.status) this.element.dataset["status"] = row.status;
      this.#cpu.set(formatCpu(row.cpu));
      this.#cpuCell.classList.toggle("busy", row.cpu >= BUSY_CPU);
      this.#mem.set(formatMemory(row.mem));
    }
    if (changed || this.#generation !== spark.generation) {
      this.#generation = spark.generation;
      const stale = row.status === "stale";
      spark.draw(this.#cpuSpark, row.slot, "cpu", stale);
      spark.draw(this.#memSpark, row.slot, "mem", stale);
    }
  }
}

/** The number of a metric and its sparkline. */
function metric(name: string): { cell: HTMLElement; value: HTMLElement; context: CanvasRenderingContext2D } {
  const cell = element("div", `cell metric ${name}`, "gridcell");
  const value = cell.appendChild(element("span", "value"));
  value.dataset["cell"] = name;
  const canvas = cell.appendChild(document.createElement("canvas"));
  canvas.className = "spark";
  canvas.setAttribute("aria-hidden", "true");
  const context = canvas.getContext("2d");
  if (context === null) throw new Error("This browser cannot draw on a canvas.");
  return { cell, value, context };
}

export class HostView extends RowView<HostRow> {
  readonly #host: Text;
  readonly #count: Text;
  readonly #alive: Text;
  readonly #stale: Text;
  readonly #staleTag: HTMLElement;
  readonly #cpu: Text;
  readonly #mem: Text;
  readonly #seen: Text;
  #version = -1;
  #shown = -1;
  #ageTick = Number.NaN;

  constructor() {
    super("host", 1);
    this.element.dataset["row"] = "host";
    const caret = element("div", "cell caret", "gridcell");
    caret.appendChild(element("span", "chevron")).setAttribute("aria-hidden", "true");

    const name = element("div", "cell name", "gridcell");
    name.setAttribute("aria-colspan", "2");
    this.#host = new Text(name.appendChild(element("span", "host-name")));
    const counts = name.appendChild(element("span", "counts"));
    this.#count = new Text(counts);
    this.#alive = new Text(counts.appendChild(element("span", "alive-count")));
    this.#staleTag = name.appendChild(element("span", "stale-count"));
    this.#stale = new Text(this.#staleTag);

    const cpu = element("div", "cell metric cpu", "gridcell");
    this.#cpu = new Text(cpu.appendChild(element("span", "value")));
    const mem = element("div", "cell metric mem", "gridcell");
    this.#mem = new Text(mem.appendChild(element("span", "value")));
    const seen = element("div", "cell seen", "gridcell");
    this.#seen = new Text(seen.appendChild(element("span", "age")));
    this.element.append(caret, name, cpu, mem, seen);
  }

  override bind(host: HostRow): void {
    super.bind(host);
    this.#version = -1;
    this.#ageTick = Number.NaN;
    this.element.dataset["host"] = host.host;
    this.#host.set(host.host);
  }

  /** Expects the host's totals to be up to date. */
  update({ now, filtered }: Paint): void {
    const host = this.line;
    if (host === undefined) return;
    // The newest sign of life of the host.
    const age = Math.max(0, now - host.seen);
    const ageTick = Math.floor(age / 1000);
    if (ageTick !== this.#ageTick) {
      this.#ageTick = ageTick;
      this.#seen.set(formatAge(age));
    }
    if (this.#version === host.version && this.#shown === host.shown) return;
    this.#version = host.version;
    this.#shown = host.shown;
    this.element.setAttribute("aria-expanded", String(!host.collapsed));
    const all = host.rows.length;
    const processes = `${formatCount(all)} ${all === 1 ? "process" : "processes"}`;
    this.#count.set(filtered ? `${formatCount(host.shown)} of ${processes}` : processes);
    this.#alive.set(`, ${formatCount(host.alive)} alive`);
    this.#stale.set(`${formatCount(host.stale)} stale`);
    this.#staleTag.hidden = host.stale === 0;
    this.#cpu.set(formatCpu(host.cpu));
    this.#mem.set(formatMemory(host.mem));
  }
}
