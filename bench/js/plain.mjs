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

  publish(topic, payload) {
    return this.#ask({ op: "PUBLISH", topic, payload });
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
    const { resolve, reject } = this.#open.get(frame.corr);
    this.#open.delete(frame.corr);
    if (frame.op === "OK") resolve(frame);
    else reject(new Error(`${frame.code}: ${frame.msg}`));
  }

  async #deliver({ topic, group, event, ctx: { lease } }) {
    const settle = { topic, group, id: event.id, lease };
    try {
      await this.#handlers.get(`${topic} ${group}`)(event);
      this.#socket.send(JSON.stringify({ op: "ACK", ...settle }));
    } catch (error) {
      this.#socket.send(JSON.stringify({ op: "NACK", ...settle, reason: String(error) }));
    }
  }
}
