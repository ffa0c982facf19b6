/** Sparklines, drawn on small canvases: no DOM node and no string per sample. */

import { SAMPLES, type History, type Series } from "./history.js";

/** A value span below which a change is noise: percent of a core, share of the memory shown. */
const LEAST_CPU = 5;
const LEAST_MEM_SHARE = 0.04;

export interface Colours {
  readonly cpu: string;
  readonly mem: string;
  readonly stale: string;
}

const samples = new Float32Array(SAMPLES);

/** Draws for all rows; every canvas has the same size, measured once per layout. */
export class SparkPainter {
  readonly #history: History;
  #width = 0;
  #height = 0;
  #ratio = 1;
  #colours: Colours = { cpu: "", mem: "", stale: "" };
  /** Grows when all canvases must be drawn again. */
  generation = 0;

  constructor(history: History) {
    this.#history = history;
  }

  configure(width: number, height: number, ratio: number, colours: Colours): void {
    this.#width = width;
    this.#height = height;
    this.#ratio = ratio;
    this.#colours = colours;
    this.generation++;
  }

  draw(context: CanvasRenderingContext2D, slot: number, series: Series, stale: boolean): void {
    const { canvas } = context;
    const width = Math.round(this.#width * this.#ratio);
    const height = Math.round(this.#height * this.#ratio);
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    } else context.clearRect(0, 0, width, height);
    const count = this.#history.read(slot, series, samples);
    if (count === 0 || width === 0) return;

    let low = Number.POSITIVE_INFINITY;
    let high = Number.NEGATIVE_INFINITY;
    for (let i = 0; i < count; i++) {
      const value = samples[i] ?? 0;
      if (value < low) low = value;
      if (value > high) high = value;
    }
    if (series === "cpu") {
      // CPU stands on zero: its height is the load.
      low = 0;
      high = Math.max(high, LEAST_CPU);
    } else {
      // Memory shows its movement; a steady process is a line in the middle.
      const least = Math.max(high * LEAST_MEM_SHARE, 1);
      const missing = Math.max(0, least - (high - low)) / 2;
      low -= missing;
      high += missing;
    }

    const pad = this.#ratio * 1.5;
    const step = (width - pad * 2) / (SAMPLES - 1);
    const scale = (height - pad * 2) / (high - low);
    const right = width - pad;
    const bottom = height - pad;
    const left = right - (count - 1) * step;
    const colour = stale ? this.#colours.stale : this.#colours[series];
    context.strokeStyle = colour;
    context.fillStyle = colour;
    context.lineWidth = this.#ratio * 1.25;
    context.lineJoin = "round";
    context.beginPath();
    for (let i = 0; i < count; i++) context.lineTo(left + i * step, bottom - ((samples[i] ?? 0) - low) * scale);
    context.stroke();
    if (count > 1) {
      context.lineTo(right, height);
      context.lineTo(left, height);
      context.globalAlpha = 0.14;
      context.fill();
      context.globalAlpha = 1;
    }
    // The newest value: where the eye should land, and all there is after one heartbeat.
    const last = bottom - ((samples[count - 1] ?? 0) - low) * scale;
    context.beginPath();
    context.arc(right, last, pad, 0, Math.PI * 2);
    context.fill();
  }
}
