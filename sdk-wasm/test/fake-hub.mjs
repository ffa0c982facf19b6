/**
 * A small hub in memory for tests of timing and reconnects: a real WebSocket server that follows the protocol, and lets
 * the test cut connections, keep answers back and look at every frame.
 */

import { once } from "node:events";
import { WebSocketServer } from "ws";

/** The largest message a hub reads, in bytes: once logged in, and before. */
const MESSAGE_BYTES = 1024 * 1024;
const AUTH_BYTES = 16 * 1024;

/** Deadline of every wait, in ms: far beyond what is waited for. */
const PATIENCE = Number(process.env.TEST_PATIENCE ?? 60_000);

export class FakeHub {
  /** Every frame of every client, in order. */
  frames = [];
  /** The frames of every message that came, in order: lists of one unless `batch` is agreed. */
  messages = [];
  /** Whether it agrees to several frames in one message. */
  batch = true;
  /** Called with each frame first; what it returns is taken as handled. */
  intercept = () => false;
  /** Tokens that AUTH refuses, and why. */
  refused = new Map();
  expiresInMs = undefined;
  /** Messages that were too large; each ended its connection. */
  tooLarge = 0;
  logins = 0;
  #server;
  #topics = new Map();
  #groups = new Map();
  #leases = 0;
  #changed = new Set();

  static async start(port = 0) {
    const hub = new FakeHub();
    hub.#server = new WebSocketServer({ port, host: "127.0.0.1" });
    hub.#server.on("connection", (socket) => hub.#connection(socket));
    await once(hub.#server, "listening");
    return hub;
  }

  get port() {
    return this.#server.address().port;
  }

  get url() {
    return `ws://127.0.0.1:${this.port}/`;
  }

  get connections() {
    return this.#server.clients.size;
  }

  /** Cuts every connection, without a word or with a close frame. */
  cut(code) {
    for (const socket of this.#server.clients) code === undefined ? socket.terminate() : socket.close(code);
  }

  async stop() {
    const closed = once(this.#server, "close");
    this.#server.close();
    this.cut();
    await closed;
  }

  /** Frames of one op. */
  of(op) {
    return this.frames.filter((frame) => frame.op === op);
  }

  /** Resolves as soon as `condition` holds; it is looked at after every frame and every connection. */
  until(condition) {
    return new Promise((resolve, reject) => {
      const over = setTimeout(() => {
        this.#changed.delete(check);
        const last = this.frames.slice(-20).map((frame) => JSON.stringify(frame).slice(0, 200));
        reject(new Error(`waited ${PATIENCE} ms for ${condition}; the last frames: ${last.join(" ")}`));
      }, PATIENCE);
      const check = () => {
        const found = condition(this);
        if (!found) return;
        this.#changed.delete(check);
        clearTimeout(over);
        resolve(found);
      };
      this.#changed.add(check);
      check();
    });
  }

  #changes() {
    for (const check of [...this.#changed]) check();
  }

  #connection(socket) {
    const client = { socket, ready: false, batch: false, subscriptions: new Map(), live: 0 };
    let leaving = [];
    client.send = (frame) => {
      if (!client.batch) return socket.send(JSON.stringify(frame));
      // What is sent in one wake-up leaves as one message.
      if (leaving.push(JSON.stringify(frame)) > 1) return;
      queueMicrotask(() => {
        socket.send(leaving.join("\n"));
        leaving = [];
      });
    };
    socket.on("message", (data) => {
      if (data.length > (client.ready ? MESSAGE_BYTES : AUTH_BYTES)) {
        this.tooLarge++;
        socket.close(1009, "frame too large");
        return this.#changes();
      }
      const text = data.toString();
      const lines = client.batch ? text.split("\n").filter((line) => line !== "") : [text];
      const message = [];
      this.messages.push(message);
      for (const line of lines) {
        let frame;
        try {
          frame = JSON.parse(line);
        } catch {
          client.send({ op: "ERR", code: "bad_json", msg: "Invalid JSON" });
          continue;
        }
        message.push(frame);
        this.frames.push(frame);
        if (!this.intercept(frame, client)) this.answer(frame, client);
      }
      this.#changes();
    });
    socket.on("close", () => {
      for (const subscription of client.subscriptions.values()) this.#leave(subscription);
      client.subscriptions.clear();
      this.#changes();
    });
    this.#changes();
  }

  /** Answers a frame the way a hub does. */
  answer(frame, client) {
    const ok = (fields = {}) => client.send({ op: "OK", corr: frame.corr, ...fields });
    const err = (code, msg = code) => client.send({ op: "ERR", code, msg, corr: frame.corr });
    if (frame.op === "PING") return client.send({ op: "PONG", corr: frame.corr });
    if (frame.op === "AUTH") {
      this.logins++;
      const code = this.refused.get(frame.token);
      if (code) return err(code);
      client.ready = true;
      const batch = this.batch && frame.batch === true;
      ok({ expires_in_ms: this.expiresInMs, ...(batch && { batch }) });
      client.batch = batch;
      return;
    }
    if (!client.ready) return err("unauthorized", "Call AUTH first.");
    const name = `${frame.topic}::${frame.group}`;
    const subscription = client.subscriptions.get(name);
    switch (frame.op) {
      case "PUBLISH":
        return ok(this.publish(frame.topic, frame.payload, frame.opts));
      case "SUBSCRIBE":
        return this.#subscribe(frame, client, ok, err);
      case "UNSUBSCRIBE":
        if (!subscription) return err("not_subscribed");
        client.subscriptions.delete(name);
        this.#leave(subscription);
        return ok();
      case "PAUSE":
      case "RESUME":
        if (!subscription) return err("not_subscribed");
        subscription.paused = frame.op === "PAUSE";
        this.#deliver(subscription.state);
        return ok();
      default:
        return subscription ? this.#settle(frame, subscription, ok, err) : err("not_subscribed");
    }
  }

  publish(topic, payload, { id = `id-${Math.random()}`, ...others } = {}) {
    const events = this.#topics.get(topic) ?? this.#topics.set(topic, []).get(topic);
    const first = events.find((event) => event.id === id);
    if (first) return { id, seq: first.seq, duplicate: true };
    const event = { id, seq: events.length + 1, ts: 1, topic, ...others, payload };
    events.push(event);
    for (const state of this.#groups.values()) {
      if (state.topic !== topic) continue;
      state.waiting.push({ event, attempt: 0 });
      this.#deliver(state);
    }
    return { id, seq: event.seq };
  }

  #subscribe(frame, client, ok, err) {
    if (client.subscriptions.has(`${frame.topic}::${frame.group}`)) return err("already_subscribed");
    const group = frame.group ?? `$live-${++client.live}`;
    const ephemeral = frame.group === undefined;
    const name = ephemeral ? `${Math.random()}` : `${frame.topic}::${group}`;
    const events = this.#topics.get(frame.topic) ?? [];
    const { from, ackTimeoutMs = 30_000, ack } = frame.opts ?? {};
    let state = this.#groups.get(name);
    if (!state) {
      const waiting = from === "earliest" ? events.map((event) => ({ event, attempt: 0 })) : [];
      state = { name, topic: frame.topic, group, waiting, members: [], flying: new Map() };
      this.#groups.set(name, state);
    }
    const subscription = { client, state, name, ephemeral: ephemeral || ack === "none", gone: ephemeral, ackTimeoutMs, paused: false };
    client.subscriptions.set(`${frame.topic}::${group}`, subscription);
    state.members.push(subscription);
    ok({ topic: frame.topic, group });
    if (from === "snapshot") {
      const latest = new Map(events.filter((event) => event.key).map((event) => [event.key, event]));
      for (const event of latest.values()) this.#send(subscription, { event, attempt: 1 });
      client.send({ op: "LIVE", topic: frame.topic, group });
    }
    this.#deliver(state);
  }

  #deliver(state) {
    for (const member of state.members) {
      while (state.waiting.length > 0 && !member.paused) {
        const entry = state.waiting.shift();
        entry.attempt++;
        this.#send(member, entry);
      }
    }
  }

  #send(member, entry) {
    const lease = member.ephemeral ? null : String(++this.#leases).padStart(16, "0");
    if (lease) member.state.flying.set(lease, { ...entry, member });
    const ctx = {
      attempt: entry.attempt,
      max_attempts: 5,
      ack_deadline_ms: lease ? member.ackTimeoutMs : 0,
      lease,
      redelivered: entry.attempt > 1,
    };
    member.client.send({ op: "EVENT", topic: member.state.topic, group: member.state.group, event: entry.event, ctx });
  }

  #settle(frame, { state }, ok, err) {
    const entry = state.flying.get(frame.lease);
    if (!entry) return err("stale_lease");
    if (frame.op === "MODACK") return ok();
    state.flying.delete(frame.lease);
    if (frame.op === "NACK" && !frame.dead) {
      state.waiting.push(entry);
      this.#deliver(state);
    }
    if (frame.corr !== undefined) ok();
  }

  #leave(subscription) {
    const { state } = subscription;
    state.members = state.members.filter((member) => member !== subscription);
    for (const [lease, entry] of state.flying) {
      if (entry.member !== subscription) continue;
      state.flying.delete(lease);
      state.waiting.push(entry);
    }
    if (subscription.gone) this.#groups.delete(state.name);
    this.#deliver(state);
  }
}
