/** Light or dark: the system's, unless the visitor chose the other one. */

const STORED = "prom-hub.theme";

type Theme = "light" | "dark";

/** Wires the toggle; `onChange` runs after every change of the effective theme. */
export function installTheme(toggle: HTMLButtonElement, onChange: () => void): void {
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = read();

  const apply = (): void => {
    const dark = (chosen ?? systemTheme()) === "dark";
    if (chosen === undefined) delete document.documentElement.dataset["theme"];
    else document.documentElement.dataset["theme"] = chosen;
    toggle.setAttribute("aria-pressed", String(dark));
    onChange();
  };
  const systemTheme = (): Theme => (system.matches ? "dark" : "light");

  toggle.addEventListener("click", () => {
    const next: Theme = (chosen ?? systemTheme()) === "dark" ? "light" : "dark";
    // Back at the system's theme, the page follows the system again.
    chosen = next === systemTheme() ? undefined : next;
    write(chosen);
    apply();
  });
  system.addEventListener("change", apply);
  apply();
}

function read(): Theme | undefined {
  try {
    const stored = localStorage.getItem(STORED);
    return stored === "light" || stored === "dark" ? stored : undefined;
  } catch {
    return undefined;
  }
}

function write(theme: Theme | undefined): void {
  try {
    if (theme === undefined) localStorage.removeItem(STORED);
    else localStorage.setItem(STORED, theme);
  } catch {
    // Storage is switched off: the choice lasts until the page is closed.
  }
}
