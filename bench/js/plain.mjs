/**
 * A client as one writes it by hand: one frame a message, JSON only, a promise for each publish, a handler that is
 * acknowledged. It does not reconnect, renew, extend or check anything. What the SDK is measured against.
 */

export class PlainClient {
  #socket;
  #corr = 0;
  #open = new Map();
  #handlers = new Map();

  /** `WebSocket` is the engine's, or that of the package `ws`. */
  static connect(url, token, WebSocket) {
    const client = new PlainClient();
    const socket = (client.#socket = new WebSocket(url));
    return new Promise((resolve, reject) => {
      socket.onopen = () => client.#ask({ op: "AUTH", token }).then(() => resolve(client), reject);
      socket.onmessage = ({ data }) => client.#frame(JSON.parse(data));
      socket.onerror = () => reject(new Error(`no connection to ${url}`));
      socket.onclose = ({ code }) => {
        const error = new Error(`the connection ended: ${code}`);
        for (const { reject: fail } of client.#open.values()) fail(error);
        reject(error);
      };
    });
  }

  publish(topic, payload, opts) {
    return this.#ask({ op: "PUBLISH", topic, payload, opts });
  }

  subscribe(topic, group, handler, opts) {
    this.#handlers.set(`${topic} ${group}`, handler);
    return this.#ask({ op: "SUBSCRIBE", topic, group, opts });
  }

  async close() {
    this.#socket.close();
  }

  #ask(frame) {
    const corr = String(++this.#corr);
    this.#socket.send(JSON.stringify({ ...frame, corr }));
    return new Promise((resolve, reject) => this.#open.set(corr, { resolve, reject }));
  }

  #frame(frame) {
    if (frame.op === "EVENT") return void this.#deliver(frame);
    const open = this.#open.get(frame.corr);
    if (!open) return;
    this.#open.delete(frame.corr);
    if (frame.op === "OK") open.resolve(frame);
    else open.reject(Object.assign(new Error(`${frame.code}: ${frame.msg}`), frame));
  }

  async #deliver({ topic, group, event, ctx }) {
    const settle = { topic, group, id: event.id, lease: ctx.lease };
    try {
      await this.#handlers.get(`${topic} ${group}`)(event, ctx);
      this.#settle({ op: "ACK", ...settle });
    } catch (error) {
      this.#settle({ op: "NACK", ...settle, reason: String(error) });
    }
  }

  #settle(frame) {
    if (frame.lease !== null) this.#socket.send(JSON.stringify(frame));
  }
}
