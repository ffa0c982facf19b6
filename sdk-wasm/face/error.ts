/** An error of the hub or of the connection to it. */
export class HubError extends Error {
  override readonly name = "HubError";

  constructor(
    /** One of the codes in docs/protocol.md, or `timeout`, `closed`, `connection_lost`, `load_failed`, `listener_failed`, `handler_failed` from the SDK itself. */
    readonly code: string, message: string,
    /** The same call may succeed later. */ readonly retryable: boolean,
    /** Milliseconds to wait before the next try, if the hub gave a time. */ readonly retryAfterMs?: number, cause?: unknown,
  ) {
    super(message, cause === undefined ? undefined : { cause });
  }
}
