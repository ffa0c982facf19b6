/** Where a key takes the focus in a list of `count` lines, `page` of which are visible; undefined: not a movement. */
export function moved(key: string, index: number, count: number, page: number): number | undefined {
  const to = target(key, index, count, page);
  return to === undefined ? undefined : Math.max(0, Math.min(count - 1, to));
}

function target(key: string, index: number, count: number, page: number): number | undefined {
  switch (key) {
    case "ArrowDown":
      return index + 1;
    case "ArrowUp":
      return index - 1;
    case "PageDown":
      return index + page;
    case "PageUp":
      return index - page;
    case "Home":
      return 0;
    case "End":
      return count - 1;
    default:
      return undefined;
  }
}
