/**
 * Wires the page together and owns its only clock: events mark the table, one frame later it is painted.
 *
 *     Connection ──events──> ProcessTable <──choices── toolbar
 *                                 │ at most one paint per animation frame
 *                                 └──> Grid, StatusBar
 */

import { HubClock } from "./clock.js";
import { Connection, describeRefusal } from "./connection.js";
import { formatCount } from "./format.js";
import { Grid } from "./grid.js";
import { ProcessTable } from "./model.js";
import { findPage } from "./page.js";
import { isProcessState } from "./process.js";
import { StatusBar } from "./statusbar.js";
import { installTheme } from "./theme.js";
import { keepToken, takeToken } from "./token.js";
import { TokenPanel } from "./tokenpanel.js";
import { installToolbar } from "./toolbar.js";

/** Lines that came or went are laid out at most this often, a changed order less often still: rows that jump cannot be read. */
const STRUCTURE_MS = 250;
const ORDER_MS = 1000;
/** Ages and counters move on without events. */
const TICK_MS = 250;

export function startApp(): void {
  const page = findPage();
  const table = new ProcessTable();
  const clock = new HubClock();
  const status = new StatusBar(page, table);
  const grid = new Grid(page, table, request);

  let frame = 0;
  let laidOut = Number.NEGATIVE_INFINITY;

  function request(): void {
    if (frame === 0) frame = requestAnimationFrame(paint);
  }

  function paint(now: number): void {
    frame = 0;
    const held = grid.held(now);
    const since = now - laidOut;
    if ((table.structureChanged && since >= STRUCTURE_MS) || (table.orderChanged && !held && since >= ORDER_MS)) {
      grid.layout(!held);
      laidOut = now;
    }
    const holding = held && table.orderChanged;
    if (page.held.hidden === holding) page.held.hidden = !holding;
    const hubNow = clock.now(Date.now());
    grid.paint(now, hubNow);
    status.paint(now, hubNow);
  }

  installTheme(page.theme, () => grid.restyle());
  installToolbar(page, table, {
    changed() {
      grid.layout(true);
      laidOut = performance.now();
      if (table.filtered) status.announce(`${formatCount(table.shown)} of ${formatCount(table.size)} processes`);
      request();
    },
    enterGrid: () => grid.focus(),
  });

  const { protocol, host } = location;
  const connection = new Connection(`${protocol === "https:" ? "wss:" : "ws:"}//${host}/ws`, {
    status(next) {
      if (next.state !== "ready") clock.remeasure();
      status.setStatus(next);
      request();
    },
    event({ key, id, ts, payload }, live) {
      if (!isProcessState(payload)) return;
      if (live) clock.observe(ts, Date.now());
      table.apply(key ?? payload.processId, id, payload);
      status.event(ts, live);
      request();
    },
    snapshot(view) {
      for (const [key, { id, payload }] of view) if (isProcessState(payload)) table.apply(key, id, payload);
      table.retain((key) => view.has(key));
      status.loaded();
      request();
    },
    refused(error) {
      panel.open("The hub refused the token", describeRefusal(error));
    },
  });

  const session = (): Storage => sessionStorage;
  const panel = new TokenPanel(page, (token) => {
    keepToken(token, session);
    connection.start(token);
    grid.focus();
  });
  const takeFromAddress = (): void => {
    const token = takeToken(location, history, session);
    if (token === undefined) {
      panel.open("Connect to the hub", "The hub prints a link when it starts. Open that link, or paste it here.");
    } else {
      panel.close();
      connection.start(token);
    }
  };
  // A link of the hub that is opened in this tab changes only the fragment.
  addEventListener("hashchange", () => {
    if (location.hash !== "") takeFromAddress();
  });
  setInterval(request, TICK_MS);
  takeFromAddress();
}
