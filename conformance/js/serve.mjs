/**
 * What the drivers in JavaScript share: reads commands of the conformance suite from the input, one a line, has a client do
 * them, and writes what comes of them. What the lines mean is in conformance/README.md.
 */

import { createInterface } from "node:readline";

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

/**
 * `can`: what the client can do. `connect({url, token, tokens, options}, tell)` gives an object with a method for each
 * command, which gets the command's fields; handlers are made by `handlerOf`. `tell` writes a line that answers nothing.
 */
export function serve(can, commands) {
  let release;
  const released = new Promise((resolve) => (release = resolve));

  /** What the suite wants done with an event of this group. */
  const handlerOf = ({ topic, group, handler }) => async (event, attempt) => {
    say({ event, group, attempt });
    if (handler.hold === true || (handler.hold !== undefined && handler.hold === event.payload)) await released;
    if (handler.publish) await commands.publish({ topic: handler.publish, payload: event.payload });
    if (handler.unsubscribe) await commands.unsubscribe({ topic, group });
    if (handler.fail) throw new Error(handler.fail);
  };

  const run = async ({ do: name, ...fields }) => {
    if (name === "release") return void release();
    if (!Object.hasOwn(commands, name)) throw new Error(`this driver has no command ${name}`);
    return commands[name](name === "subscribe" ? { ...fields, handler: handlerOf(fields) } : fields, say);
  };

  say({ hello: { can } });
  const lines = createInterface({ input: process.stdin });
  lines.on("line", (line) => {
    const { id, ...command } = JSON.parse(line);
    // Begun now, so that commands begin in their order; what they answer comes when it comes.
    run(command).then(
      (ok) => say({ id, ok: ok ?? {} }),
      ({ code = "driver", message, retryable = false, retryAfterMs }) => say({ id, error: { code, message, retryable, retryAfterMs } }),
    );
  });
  // The suite is done with this client, whatever it is at.
  lines.on("close", () => process.exit(0));
}
