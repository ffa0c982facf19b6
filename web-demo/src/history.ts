/** Recent CPU and memory samples of every process, for the sparklines. */

/** Samples kept of each series; one sample is one heartbeat. */
export const SAMPLES = 60;

export type Series = "cpu" | "mem";

/**
 * A pool of ring buffers in one flat array. A process borrows a slot while it is in the table;
 * slots are reused, so the memory is bounded by the largest number of processes seen at once.
 *
 *     slot 0: [cpu × 60][mem × 60]   slot 1: [cpu × 60][mem × 60]   …
 */
export class History {
  #samples: Float32Array;
  /** Position of the next write of each slot. */
  #next: Uint8Array;
  #count: Uint8Array;
  #used = 0;
  readonly #free: number[] = [];

  constructor(slots = 256) {
    this.#samples = new Float32Array(slots * 2 * SAMPLES);
    this.#next = new Uint8Array(slots);
    this.#count = new Uint8Array(slots);
  }

  acquire(): number {
    const slot = this.#free.pop() ?? this.#used++;
    if (slot >= this.#next.length) this.#grow();
    this.#next[slot] = 0;
    this.#count[slot] = 0;
    return slot;
  }

  release(slot: number): void {
    this.#free.push(slot);
  }

  push(slot: number, cpu: number, mem: number): void {
    const next = this.#next[slot] ?? 0;
    const base = slot * 2 * SAMPLES + next;
    this.#samples[base] = cpu;
    this.#samples[base + SAMPLES] = mem;
    this.#next[slot] = (next + 1) % SAMPLES;
    const count = this.#count[slot] ?? 0;
    if (count < SAMPLES) this.#count[slot] = count + 1;
  }

  /** Copies one series into `out`, oldest first, and returns how many samples there are. */
  read(slot: number, series: Series, out: Float32Array): number {
    const count = this.#count[slot] ?? 0;
    const base = slot * 2 * SAMPLES + (series === "cpu" ? 0 : SAMPLES);
    const oldest = count < SAMPLES ? 0 : (this.#next[slot] ?? 0);
    for (let i = 0; i < count; i++) out[i] = this.#samples[base + ((oldest + i) % SAMPLES)] ?? 0;
    return count;
  }

  #grow(): void {
    const slots = this.#next.length * 2;
    const samples = new Float32Array(slots * 2 * SAMPLES);
    const next = new Uint8Array(slots);
    const count = new Uint8Array(slots);
    samples.set(this.#samples);
    next.set(this.#next);
    count.set(this.#count);
    this.#samples = samples;
    this.#next = next;
    this.#count = count;
  }
}
