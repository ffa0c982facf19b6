// A client as the original's users wrote it: AUTH, PUBLISH, SUBSCRIBE, UNSUBSCRIBE, ACK, NACK, never a `corr`, never a
// `lease`. The first OK is its login, any ERR before that its refusal; later ones it ignores.

import { WebSocket } from "ws";

export class OriginalClient {
  #socket;
  #handlers = new Map();

  constructor(url, token) {
    this.url = url;
    this.token = token;
  }

  connect() {
    return new Promise((resolve, reject) => {
      this.#socket = new WebSocket(this.url);
      this.#socket.on("error", reject);
      this.#socket.on("open", () => this.#send({ op: "AUTH", token: this.token }));
      this.#socket.on("message", (data) => {
        const frame = JSON.parse(data.toString());
        if (frame.op === "OK") resolve();
        else if (frame.op === "ERR") reject(new Error(frame.msg));
        else if (frame.op === "EVENT") void this.#deliver(frame);
      });
    });
  }

  publish(topic, payload, opts) {
    this.#send({ op: "PUBLISH", topic, payload, opts });
  }

  subscribe(topic, group, handler, opts) {
    this.#handlers.set(`${topic}::${group}`, handler);
    this.#send({ op: "SUBSCRIBE", topic, group, opts });
  }

  unsubscribe(topic, group) {
    this.#handlers.delete(`${topic}::${group}`);
    this.#send({ op: "UNSUBSCRIBE", topic, group });
  }

  close() {
    this.#socket.close();
  }

  async #deliver({ topic, group, event, ctx }) {
    const handler = this.#handlers.get(`${topic}::${group}`);
    if (!handler) return;
    try {
      await handler(event, ctx);
      this.#send({ op: "ACK", topic, group, id: event.id });
    } catch (error) {
      this.#send({ op: "NACK", topic, group, id: event.id, reason: String(error.message) });
    }
  }

  #send(frame) {
    this.#socket.send(JSON.stringify(frame));
  }
}
