/** A TCP proxy between a client and a hub that cuts, delays, splits and swallows. */

import { once } from "node:events";
import { connect, createServer } from "node:net";

export class TcpProxy {
  /** How long every piece is kept back, in ms. */
  delayMs = 0;
  /** The largest piece that goes on at once, in bytes. */
  pieceBytes = Infinity;
  /** Connections it took. */
  accepted = 0;
  #server;
  #pairs = new Set();

  static async start(port, host = "127.0.0.1") {
    const proxy = new TcpProxy();
    proxy.#server = createServer((client) => proxy.#pair(client, connect(port, host)));
    proxy.#server.listen(0, "127.0.0.1");
    await once(proxy.#server, "listening");
    return proxy;
  }

  get port() {
    return this.#server.address().port;
  }

  get url() {
    return `ws://127.0.0.1:${this.port}/ws`;
  }

  get connections() {
    return this.#pairs.size;
  }

  /** Ends every connection without a word, also in the middle of a frame. */
  cut() {
    for (const pair of this.#pairs) pair.end();
  }

  /** From now on nothing passes on the connections there are, nor is their end told; new ones work. */
  blackHole() {
    for (const pair of this.#pairs) pair.dead = true;
  }

  async stop() {
    const closed = once(this.#server, "close");
    this.#server.close();
    this.cut();
    await closed;
  }

  #pair(client, hub) {
    this.accepted++;
    const timers = new Set();
    const pair = {
      dead: false,
      end: () => {
        for (const timer of timers) clearTimeout(timer);
        this.#pairs.delete(pair);
        client.destroy();
        hub.destroy();
      },
    };
    this.#pairs.add(pair);
    for (const [from, to] of [[client, hub], [hub, client]]) {
      from.setNoDelay(true);
      from.on("error", () => {});
      from.on("close", () => pair.dead || pair.end());
      from.on("data", (bytes) => {
        if (pair.dead) return;
        for (let at = 0; at < bytes.length; at += this.pieceBytes) {
          this.#pass(to, bytes.subarray(at, at + Math.min(this.pieceBytes, bytes.length)), pair, timers);
        }
        // What the other side does not take is not read either.
        if (to.writableLength > 1024 * 1024) {
          from.pause();
          to.once("drain", () => from.resume());
        }
      });
    }
  }

  #pass(to, bytes, pair, timers) {
    if (this.delayMs === 0) return to.write(bytes);
    const timer = setTimeout(() => {
      timers.delete(timer);
      if (!pair.dead) to.write(bytes);
    }, this.delayMs);
    timers.add(timer);
  }
}
