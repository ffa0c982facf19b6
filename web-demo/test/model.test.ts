import assert from "node:assert/strict";
import { test } from "node:test";
import { ProcessTable } from "../src/model.js";
import type { ProcessState } from "../src/process.js";
import { state } from "./state.js";

let events = 0;

function put(table: ProcessTable, ...states: readonly ProcessState[]): void {
  for (const one of states) table.apply(one.processId, `event-${++events}`, one);
}

/** The lines as text: hosts bare, processes indented. */
function shown(table: ProcessTable): string[] {
  return table.lines.map((line) => (line.kind === "host" ? line.host : `  ${line.name} ${line.pid}`));
}

test("groups processes by host, hosts and names in natural order", () => {
  const table = new ProcessTable();
  put(table, state("web-10", "node", 1), state("web-2", "worker-10", 2), state("web-2", "worker-9", 3), state("web-2", "worker-9", 1));
  table.layout(true);
  assert.deepEqual(shown(table), ["web-2", "  worker-9 1", "  worker-9 3", "  worker-10 2", "web-10", "  node 1"]);
  assert.deepEqual(table.lines.map((line) => line.index), [0, 1, 2, 3, 4, 5]);
});

test("updates a row in place", () => {
  const table = new ProcessTable();
  put(table, state("a", "p", 1));
  table.layout(true);
  const row = table.process("a:p:1");
  put(table, state("a", "p", 1, { cpu_pct: 42, mem_mb: 7, last_seen_ts: 5 }));
  assert.equal(table.process("a:p:1"), row);
  assert.deepEqual([row?.cpu, row?.mem, row?.seen], [42, 7, 5]);
  assert.equal(table.structureChanged, false);
});

test("the same event again, as after a reconnect, adds no sample", () => {
  const table = new ProcessTable();
  const one = state("a", "p", 1, { cpu_pct: 3 });
  table.apply(one.processId, "same", one);
  table.apply(one.processId, "same", one);
  const slot = table.process(one.processId)?.slot ?? -1;
  assert.equal(table.history.read(slot, "cpu", new Float32Array(60)), 1);
});

test("sorts by CPU with hosts by their total", () => {
  const table = new ProcessTable();
  put(table, state("a", "p", 1, { cpu_pct: 30 }), state("b", "p", 2, { cpu_pct: 20 }), state("b", "p", 3, { cpu_pct: 25 }));
  table.setSort({ key: "cpu", descending: true });
  table.layout(true);
  assert.deepEqual(shown(table), ["b", "  p 3", "  p 2", "a", "  p 1"]);
});

test("sorting by last seen puts the youngest first when ascending", () => {
  const table = new ProcessTable();
  put(table, state("a", "old", 1, { last_seen_ts: 1000 }), state("a", "new", 2, { last_seen_ts: 9000 }));
  table.setSort({ key: "seen", descending: false });
  table.layout(true);
  assert.deepEqual(shown(table), ["a", "  new 2", "  old 1"]);
});

test("a change that the sorted column does not show asks for no new order", () => {
  const table = new ProcessTable();
  table.setSort({ key: "cpu", descending: true });
  put(table, state("a", "p", 1, { cpu_pct: 10.01 }));
  table.layout(true);
  put(table, state("a", "p", 1, { cpu_pct: 10.04, mem_mb: 99 }));
  assert.equal(table.orderChanged, false);
  put(table, state("a", "p", 1, { cpu_pct: 10.2 }));
  assert.equal(table.orderChanged, true);
});

test("a layout without sorting keeps the rows where they are and adds new ones at the end", () => {
  const table = new ProcessTable();
  table.setSort({ key: "cpu", descending: true });
  put(table, state("a", "p", 1, { cpu_pct: 30 }), state("a", "p", 2, { cpu_pct: 20 }));
  table.layout(true);
  put(table, state("a", "p", 2, { cpu_pct: 90 }), state("a", "p", 3, { cpu_pct: 95 }));
  table.layout(false);
  assert.deepEqual(shown(table), ["a", "  p 1", "  p 2", "  p 3"]);
  assert.equal(table.orderChanged, true);
  table.layout(true);
  assert.deepEqual(shown(table), ["a", "  p 3", "  p 2", "  p 1"]);
});

test("equal values keep one order whatever the order of arrival", () => {
  const forwards = new ProcessTable();
  const backwards = new ProcessTable();
  const states = [state("a", "x", 1), state("a", "x", 2), state("a", "b", 3)];
  for (const table of [forwards, backwards]) table.setSort({ key: "cpu", descending: true });
  put(forwards, ...states);
  put(backwards, ...states.toReversed());
  forwards.layout(true);
  backwards.layout(true);
  assert.deepEqual(shown(forwards), shown(backwards));
});

test("filters by name, pid and host, all words, any case", () => {
  const table = new ProcessTable();
  put(table, state("web-1", "Gateway", 4711), state("web-1", "cron", 12), state("db-1", "gateway", 13));
  table.setFilter("  gateway WEB ");
  table.layout(true);
  assert.deepEqual(shown(table), ["web-1", "  Gateway 4711"]);
  assert.deepEqual([table.shown, table.size, table.filtered], [1, 3, true]);
  table.setFilter("12");
  table.layout(true);
  assert.deepEqual(shown(table), ["web-1", "  cron 12"]);
});

test("a process that arrives under a filter is filtered too", () => {
  const table = new ProcessTable();
  table.setFilter("cron");
  put(table, state("a", "cron", 1), state("a", "web", 2));
  table.layout(true);
  assert.deepEqual(shown(table), ["a", "  cron 1"]);
});

test("the status filter follows a process that goes stale and comes back", () => {
  const table = new ProcessTable();
  put(table, state("a", "p", 1), state("a", "p", 2));
  table.setStatusFilter("stale");
  table.layout(true);
  assert.deepEqual(shown(table), []);
  put(table, state("a", "p", 1, { status: "stale" }));
  assert.equal(table.structureChanged, true);
  table.layout(true);
  assert.deepEqual(shown(table), ["a", "  p 1"]);
  assert.equal(table.stale, 1);
  put(table, state("a", "p", 1));
  table.layout(true);
  assert.deepEqual(shown(table), []);
  assert.equal(table.stale, 0);
});

test("counts and totals of a host", () => {
  const table = new ProcessTable();
  put(table, state("a", "p", 1, { cpu_pct: 10, mem_mb: 100 }), state("a", "p", 2, { cpu_pct: 5, mem_mb: 50, status: "stale" }));
  const host = table.process("a:p:1")?.parent;
  assert.ok(host);
  table.total(host);
  assert.deepEqual([host.alive, host.stale, host.cpu, host.mem], [1, 1, 10, 100]);
  put(table, state("a", "p", 2, { cpu_pct: 6, mem_mb: 50 }));
  table.total(host);
  assert.deepEqual([host.alive, host.stale, host.cpu], [2, 0, 16]);
});

test("a collapsed host keeps its line and hides its processes", () => {
  const table = new ProcessTable();
  put(table, state("a", "p", 1), state("b", "p", 2));
  table.layout(true);
  const host = table.process("a:p:1")?.parent;
  assert.ok(host);
  table.setCollapsed(host, true);
  table.layout(false);
  assert.deepEqual(shown(table), ["a", "b", "  p 2"]);
  assert.equal(table.process("a:p:1")?.index, -1);
  table.setAllCollapsed(true);
  put(table, state("c", "p", 3));
  table.layout(false);
  assert.deepEqual(shown(table), ["a", "b", "c"]);
});

test("what a new snapshot does not have is removed, with its host", () => {
  const table = new ProcessTable();
  put(table, state("a", "p", 1), state("a", "p", 2, { status: "stale" }), state("b", "p", 3));
  table.layout(true);
  table.retain((key) => key === "a:p:1");
  table.layout(true);
  assert.deepEqual(shown(table), ["a", "  p 1"]);
  assert.deepEqual([table.size, table.hosts, table.shown, table.stale], [1, 1, 1, 0]);
});
