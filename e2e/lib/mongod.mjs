// Real MongoDB replica sets. The Rust tests' harness is `prom_outbox::mongod`; this is as much of it as is needed here.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { accessSync, constants, mkdirSync, openSync, readFileSync, readdirSync, statSync } from "node:fs";
import { connect, createServer } from "node:net";
import { delimiter, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

import { MongoClient } from "mongodb";

import { temporaryFolder, until } from "./hub.mjs";

const root = fileURLToPath(new URL("../../", import.meta.url));
const NAME = "prom";
/** An election takes two seconds, and a slow machine its time. */
const PATIENCE = 120_000;

/** Kills the processes it was told of, and removes the folder, when this process is over, however that came about: then
 * nobody has the other end of its input any more. One that has ended is taken from its list: its number may be another's. */
const GUARD = `
trap '' HUP INT QUIT TERM
nodes=
while read -r what pid; do
  case "$what" in
    add) nodes="$nodes $pid" ;;
    forget)
      left=
      for node in $nodes; do [ "$node" = "$pid" ] || left="$left $node"; done
      nodes=$left ;;
  esac
done
[ -z "$nodes" ] || kill -KILL $nodes 2>/dev/null
tries=100
until rm -rf "$1" || [ "$tries" = 0 ]; do tries=$((tries - 1)); sleep 0.1 || sleep 1; done
`;
/** Becomes mongod when it is told that the guard knows of it. */
const GATE = `read -r go && exec "$@" </dev/null`;

function find() {
  const named = process.env.MONGOD;
  if (named) {
    if (runs(named)) return named;
    throw new Error(`MONGOD is ${named}, which is no program that may be run`);
  }
  const onPath = (process.env.PATH ?? "").split(delimiter).map((folder) => join(folder, "mongod"));
  const found = [...onPath, ...fetched()].find(runs);
  if (!found) throw new Error("there is no mongod: run `npm run setup -- mongod`, or set MONGOD to the path of yours");
  return found;
}

function runs(path) {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

/** What `npm run setup -- mongod` fetched, if it did. */
function fetched() {
  const tools = resolve(root, "target/tools");
  try {
    return readdirSync(tools).filter((name) => name.startsWith("mongod-")).map((name) => join(tools, name, "mongod"));
  } catch {
    return [];
  }
}

/** Starts a replica set of so many nodes in a temporary folder, and waits for its primary. */
export async function replicaSet(count) {
  const mongod = find();
  const folder = await temporaryFolder();
  const guard = startGuard(folder.path);
  const ports = await freePorts(count);
  const nodes = ports.map((port, index) => startNode(mongod, folder.path, index, port, guard));
  const stop = async () => {
    await Promise.all(nodes.map((node) => node.kill()));
    await guard.end();
    // It has done so, unless somebody killed it.
    await folder.remove();
  };
  const url = `mongodb://${nodes.map((node) => node.host).join()}/?replicaSet=${NAME}`;
  /** Of two that both say so the one that was elected later: the other does not know yet that it is none any more. */
  const primary = () =>
    until("a primary", async () => {
      const elections = await Promise.all(nodes.map((node) => node.elected()));
      const last = elections.reduce((last, at) => (at > last ? at : last), "");
      return last && nodes[elections.indexOf(last)];
    }, PATIENCE);
  try {
    await Promise.all(nodes.map((node) => node.listening()));
    await initiate(nodes);
    await primary();
  } catch (error) {
    await stop();
    throw error;
  }
  return { url, nodes, primary, stop };
}

/** Must be told of a process before that becomes a mongod. */
function startGuard(folder) {
  const child = spawn("sh", ["-c", GUARD, "mongod-guard", folder], { stdio: ["pipe", "ignore", "ignore"], detached: true });
  const ended = once(child, "exit");
  // One that is gone already takes no words; there is nothing it could be told any more.
  child.stdin.on("error", () => {});
  const tell = (what, pid) => child.stdin.write(`${what} ${pid}\n`);
  return {
    add: (pid) => tell("add", pid),
    forget: (pid) => tell("forget", pid),
    async end() {
      child.stdin.end();
      await ended;
    },
  };
}

/** From below the range of outgoing connections: those must not take a port before its node does. */
async function freePorts(count) {
  const held = [];
  while (held.length < count) {
    const server = createServer().listen(15_000 + Math.floor(Math.random() * 17_000), "127.0.0.1");
    const free = await Promise.race([once(server, "listening").then(() => true), once(server, "error").then(() => false)]);
    if (free) held.push(server);
  }
  const ports = held.map((server) => server.address().port);
  await Promise.all(held.map((server) => once(server.close(), "close")));
  return ports;
}

function startNode(mongod, folder, index, port, guard) {
  const path = join(folder, `node-${index}`);
  mkdirSync(path);
  const log = join(folder, `node-${index}.log`);
  const output = openSync(log, "a");
  const args = ["--dbpath", path, "--port", String(port), "--bind_ip", "127.0.0.1", "--nounixsocket", "--quiet"];
  args.push("--replSet", NAME, "--oplogSize", "64", "--wiredTigerCacheSizeGB", "0.25");
  const child = spawn("sh", ["-c", GATE, "mongod-gate", mongod, ...args], {
    stdio: ["pipe", output, output],
    detached: true,
  });
  guard.add(child.pid);
  child.stdin.end("go\n");
  const host = `127.0.0.1:${port}`;
  const ended = once(child, "exit").then(() => guard.forget(child.pid));
  const isUp = () => child.exitCode === null && child.signalCode === null;
  return {
    host,
    pid: child.pid,
    /** SIGKILL, and that it is gone. */
    async kill() {
      if (isUp()) child.kill("SIGKILL");
      await ended;
    },
    listening: () =>
      until(`${host} to listen`, () => {
        if (!isUp()) throw new Error(`mongod ended: ${readFileSync(log, "utf8").slice(-2000)}`);
        return connects(port);
      }, PATIENCE),
    /** The election that made it primary, later ones greater; empty: it is none, or does not answer. */
    async elected() {
      if (!isUp()) return "";
      const answer = await ask(host, { hello: 1 }).catch(() => undefined);
      return answer?.isWritablePrimary ? answer.electionId.toHexString() : "";
    },
  };
}

async function initiate(nodes) {
  const members = nodes.map(({ host }, _id) => ({ _id, host }));
  const settings = { electionTimeoutMillis: 2000, heartbeatIntervalMillis: 500 };
  await ask(nodes[0].host, { replSetInitiate: { _id: NAME, members, settings } });
}

/** Asks one node, whatever its state. */
async function ask(host, command) {
  const client = new MongoClient(`mongodb://${host}/?directConnection=true&serverSelectionTimeoutMS=5000`);
  try {
    return await client.db("admin").command(command);
  } finally {
    await client.close();
  }
}

function connects(port) {
  return new Promise((done) => {
    const socket = connect(port, "127.0.0.1");
    socket.on("connect", () => done(true)).on("error", () => done(false));
    socket.on("connect", () => socket.destroy());
  });
}
