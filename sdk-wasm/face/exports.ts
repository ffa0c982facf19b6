/** What every entry exports beside its client. */

export { HubError } from "./error.js";
export { allow, deny, scopesToPolicy, type Action, type Policy, type Rule } from "./policy.js";
export type * from "./types.js";
