/** The tags in a session's answers, and what follows each. The numbers are those of `Tag` in `src/answer.rs`. */
export const Tag = {
  Open: 1,
  /** text */
  Send: 2,
  /** code, reason */
  Shut: 3,
  /** asked */
  NeedToken: 4,
  /** state, retryInMs?, then an error or `undefined` */
  State: 5,
  /** request */
  Done: 6,
  /** request, id, seq, duplicate */
  Published: 7,
  /** request, then an error */
  Failed: 8,
  /** subscription, connection */
  Event: 9,
  /** subscription */
  Live: 10,
  /** subscription, topic, from, to, reason */
  Gap: 11,
  /** subscription, then an error */
  Revoked: 12,
  /** an error: code, message, retryable, retryAfterMs? */
  Error: 13,
} as const;
