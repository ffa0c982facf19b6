/** A path between a client and a hub that can be cut, delayed, split into pieces, and made to swallow everything. */

import { once } from "node:events";
import { connect, createServer } from "node:net";

export class Proxy {
  /** Wait of every piece, in ms. */
  delayMs = 0;
  /** Largest piece that is passed on at once, in bytes. */
  pieceBytes = Infinity;
  connections = 0;
  #server;
  #target;
  #pairs = new Set();

  /** Listens on a free port; what comes goes to `target`, a port on this machine. */
  static async start(target) {
    const proxy = new Proxy();
    proxy.#target = target;
    proxy.#server = createServer((client) => proxy.#pair(client));
    proxy.#server.listen(0, "127.0.0.1");
    await once(proxy.#server, "listening");
    return proxy;
  }

  get url() {
    return `ws://127.0.0.1:${this.#server.address().port}/`;
  }

  /** Cuts every connection without a word. */
  cut() {
    for (const pair of this.#pairs) pair.end();
  }

  /** From now on the connections of this moment swallow everything; new ones are as before. */
  blackhole() {
    for (const pair of this.#pairs) pair.swallows = true;
  }

  async stop() {
    const closed = once(this.#server, "close");
    this.#server.close();
    this.cut();
    await closed;
  }

  #pair(client) {
    this.connections++;
    const hub = connect(this.#target, "127.0.0.1");
    const pair = { swallows: false, end: () => (client.destroy(), hub.destroy()) };
    this.#pairs.add(pair);
    for (const [from, to] of [[client, hub], [hub, client]]) {
      let turn = Promise.resolve();
      from.on("data", (data) => {
        // In order, however long each piece takes.
        turn = turn.then(() => this.#pass(pair, data, to));
      });
      from.on("error", () => pair.end());
      from.on("close", () => {
        this.#pairs.delete(pair);
        if (!pair.swallows) pair.end();
        else to.destroy();
      });
    }
  }

  async #pass(pair, data, to) {
    for (let at = 0; at < data.length; at += this.pieceBytes) {
      if (this.delayMs > 0) await new Promise((resolve) => setTimeout(resolve, this.delayMs));
      if (pair.swallows || to.destroyed) return;
      to.write(data.subarray(at, Math.min(at + this.pieceBytes, data.length)));
    }
  }
}
