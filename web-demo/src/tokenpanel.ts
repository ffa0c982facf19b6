/** The panel that asks for a token. */

import type { Page } from "./page.js";
import { tokenIn } from "./token.js";

export class TokenPanel {
  readonly #page: Page;

  constructor(page: Page, onToken: (token: string) => void) {
    this.#page = page;
    const { tokenPanel, tokenInput, tokenError } = page;
    tokenPanel.addEventListener("submit", (event) => {
      event.preventDefault();
      const token = tokenIn(tokenInput.value);
      tokenError.hidden = token !== undefined;
      tokenInput.setAttribute("aria-invalid", String(token === undefined));
      if (token === undefined) return tokenInput.focus();
      this.close();
      onToken(token);
    });
  }

  open(title: string, reason: string): void {
    const { tokenPanel, tokenTitle, tokenReason, tokenInput, tokenError } = this.#page;
    tokenTitle.textContent = title;
    tokenReason.textContent = reason;
    tokenError.hidden = true;
    tokenInput.value = "";
    tokenInput.removeAttribute("aria-invalid");
    tokenPanel.hidden = false;
    tokenInput.focus();
  }

  close(): void {
    this.#page.tokenPanel.hidden = true;
  }
}
