/** Policies, for whoever issues tokens: put the result into the `policy` claim. */

export type Action = "publish" | "read" | "subscribe" | "*" | "ops:read" | "ops:admin";

export interface Rule {
  readonly effect: "allow" | "deny"; readonly action: Action;
  /** Patterns: a topic whose segments may be `*` (exactly one) or `**` (zero or more). */ readonly topics: readonly string[];
  /** Narrows the rule to subscriptions of these groups; `"*"` is any. */ readonly groups?: readonly string[];
}

/** Rules in order, the first that applies decides, none denies. */
export interface Policy { readonly rules: readonly Rule[] }

/** A rule that allows `action` on `topics`. */
export const allow = (action: Action, ...topics: string[]): Rule => rule("allow", action, topics);
/** A rule that denies `action` on `topics`. */
export const deny = (action: Action, ...topics: string[]): Rule => rule("deny", action, topics);

function rule(effect: Rule["effect"], action: Action, topics: string[]): Rule {
  const bad = topics.find((topic) => !isPattern(topic));
  if (bad !== undefined) throw new TypeError(`not a well-formed topic pattern: ${JSON.stringify(bad)}`);
  return { effect, action, topics };
}

/** The policy that scopes stand for, as the hub reads them: `publish:<pattern>`, `read:…`, `subscribe:…`, `*:…`, `consume:<pattern>:<group>`,
 * `ops:read`, `ops:admin`; as a list (the claim `scopes`: an action alone is for all topics) or separated by white space (`scope`). Others grant nothing. */
export function scopesToPolicy(scopes: string | readonly string[]): Policy {
  const rules: Rule[] = [], [list, all] = typeof scopes === "string" ? [scopes.split(/[\t\n\f\r ]+/)] : [scopes, "**"];
  for (const scope of list) {
    const [, action, topic = all, consumed, group] = /^(?:(publish|read|subscribe|\*)(?::(.*))?|consume:([^:]*):(?!\$)([!#-[\]-~]{1,128}))$/s.exec(scope) ?? [];
    if (scope === "ops:read" || scope === "ops:admin") rules.push({ effect: "allow", action: scope, topics: [] });
    else if (action && topic !== undefined && isPattern(topic)) rules.push({ effect: "allow", action: action as Action, topics: [topic] });
    else if (consumed && group && isPattern(consumed)) rules.push({ effect: "allow", action: "subscribe", topics: [consumed], groups: [group] });
  }
  return { rules };
}

function isPattern(pattern: string): boolean {
  // Up to two leading `dlq` segments, which the hub adds for dead letters, do not count against the limits.
  const counted = pattern.replace(/^(dlq\.){1,2}(?=.)/, "");
  return counted.length <= 255 && counted.split(".").length <= 16 && /^(\$?[\w-]+|\*\*?)(\.([\w-]+|\*\*?))*$/.test(pattern);
}
