/** Filter, status buttons, column headers and the fold-all button: what the visitor chooses to see. */

import type { StatusFilter } from "./filter.js";
import type { ProcessTable } from "./model.js";
import { firstDirection, type SortKey } from "./order.js";
import type { Page } from "./page.js";

export interface ToolbarHandlers {
  /** The choice changed; the table must be laid out again. */
  changed(): void;
  /** The visitor left the filter for the rows. */
  enterGrid(): void;
}

export function installToolbar(page: Page, table: ProcessTable, { changed, enterGrid }: ToolbarHandlers): void {
  const { filter } = page;

  const setFilter = (text: string): void => {
    filter.value = text;
    table.setFilter(text);
    changed();
  };
  filter.addEventListener("input", () => setFilter(filter.value));
  filter.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowDown" && event.key !== "Enter") return;
    event.preventDefault();
    enterGrid();
  });

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
    const typing = event.target instanceof HTMLInputElement;
    if (event.key === "/" && !typing) {
      event.preventDefault();
      filter.focus();
      filter.select();
    } else if (event.key === "Escape" && (!typing || event.target === filter) && filter.value !== "") {
      event.preventDefault();
      setFilter("");
    }
  });

  for (const button of page.statusButtons) {
    button.addEventListener("click", () => {
      table.setStatusFilter(button.dataset["filterStatus"] as StatusFilter);
      for (const other of page.statusButtons) other.setAttribute("aria-pressed", String(other === button));
      changed();
    });
  }

  const showSort = (): void => {
    for (const button of page.sortButtons) {
      const sorted = button.dataset["sort"] === table.sort.key;
      button.parentElement?.setAttribute("aria-sort", sorted ? (table.sort.descending ? "descending" : "ascending") : "none");
    }
  };
  for (const button of page.sortButtons) {
    const key = button.dataset["sort"] as SortKey;
    button.addEventListener("click", () => {
      const { sort } = table;
      table.setSort(sort.key === key ? { key, descending: !sort.descending } : firstDirection(key));
      showSort();
      changed();
    });
  }
  showSort();

  let folded = false;
  page.foldAll.addEventListener("click", () => {
    folded = !folded;
    page.foldAll.textContent = folded ? "Unfold hosts" : "Fold hosts";
    table.setAllCollapsed(folded);
    changed();
  });
}
