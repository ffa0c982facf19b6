/** Events per second over the last five seconds, from a ring of fixed buckets. */

const BUCKET_MS = 250;
const BUCKETS = 20;

export class Meter {
  readonly #counts = new Float64Array(BUCKETS);
  #bucket = 0;
  #started = -1;

  /** Counts one event; `now` must not run backwards. */
  hit(now: number): void {
    this.#advance(now);
    const at = this.#bucket % BUCKETS;
    this.#counts[at] = (this.#counts[at] ?? 0) + 1;
  }

  rate(now: number): number {
    if (this.#started < 0) return 0;
    this.#advance(now);
    let sum = 0;
    for (const count of this.#counts) sum += count;
    // Before the ring has filled once, its empty part is not a quiet time.
    const elapsed = Math.min(Math.max(now - this.#started, 1000), BUCKETS * BUCKET_MS);
    return (sum * 1000) / elapsed;
  }

  #advance(now: number): void {
    const bucket = Math.floor(now / BUCKET_MS);
    if (this.#started < 0) {
      this.#started = now;
      this.#bucket = bucket;
    }
    const steps = Math.min(bucket - this.#bucket, BUCKETS);
    for (let i = 1; i <= steps; i++) this.#counts[(this.#bucket + i) % BUCKETS] = 0;
    this.#bucket = Math.max(bucket, this.#bucket);
  }
}
