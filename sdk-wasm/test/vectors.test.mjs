// The vectors of the protocol, against what the SDK itself knows of patterns and policies.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { allow, scopesToPolicy } from "@prom-hub/sdk";

const vectors = (name) =>
  JSON.parse(readFileSync(new URL(`../../protocol/tests/vectors/${name}`, import.meta.url), "utf8"));

test("patterns are taken or refused as by the hub", () => {
  const { valid, invalid, matches, relations } = vectors("patterns.json");
  assert.ok(valid.length > 0 && invalid.length > 0);
  const used = [...matches.map((match) => match.pattern), ...relations.flatMap(({ a, b }) => [a, b])];
  for (const pattern of [...valid, ...used]) {
    assert.deepEqual(allow("publish", pattern).topics, [pattern]);
    assert.equal(scopesToPolicy([`subscribe:${pattern}`]).rules.length, 1, pattern);
  }
  for (const { pattern } of invalid) {
    assert.throws(() => allow("publish", pattern), TypeError, JSON.stringify(pattern));
    assert.deepEqual(scopesToPolicy([`subscribe:${pattern}`]).rules, [], JSON.stringify(pattern));
  }
});

test("scopes stand for the same rules as in the hub", () => {
  let checked = 0;
  for (const { name, claims, rules } of vectors("policies.json").cases) {
    const scopes = claims.scopes ?? claims.scope;
    if (claims.policy !== undefined || scopes === undefined || rules === undefined) continue;
    assert.deepEqual(scopesToPolicy(scopes).rules, rules, name);
    checked += 1;
  }
  assert.ok(checked >= 4, `${checked} cases`);
});
