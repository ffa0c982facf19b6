//! The commands that reach a hub, with every kind of policy: what is refused says so and ends with an error. A command that
//! is in no list fails, wherever it stands below others.

use prom_testkit::token_for;

use crate::common::{Folder, hub::Hub, prom};

/// Commands that bring no token to a hub: they run one, make tokens, or open a folder or a database of their own.
const HERE: [&[&str]; 12] = [
    &["hub"],
    &["dev"],
    &["token", "mint"],
    &["store", "verify"],
    &["store", "stats"],
    &["store", "dump"],
    &["store", "compact"],
    &["outbox", "list"],
    &["outbox", "show"],
    &["outbox", "retry"],
    &["outbox", "drop"],
    &["outbox", "stats"],
];
/// These publish and subscribe like `pub` and `sub`, over the same client, until they are stopped or for long.
const LIKE_OTHERS: [&[&str]; 7] = [
    &["heartbeat"],
    &["bench", "publish"],
    &["bench", "deliver"],
    &["bench", "latency"],
    &["bench", "idle"],
    &["bench", "outbox"],
    &["bench", "all"],
];

const SUB: [&str; 6] = ["sub", "a", "--from", "earliest", "--count", "1"];
const WATCH: [&str; 3] = ["watch", "process.state", "--once"];

#[rustfmt::skip]
fn table() -> Vec<(Vec<&'static str>, &'static str)> {
    //  n none  p publish  r read  s subscribe  c one group  a everything  t everything, and the states by name
    vec![
        //                                                    nprscat
        (vec!["pub", "a", "1"],                              "-+---++"),
        (vec!["pub", "process.state", "1", "--key", "k"],    "------+"),
        (vec!["pub", "dlq.a", "1"],                          "-------"),
        (vec!["pub", "$audit", "1"],                         "-------"),
        (SUB.to_vec(),                                       "--++-++"),
        ([&SUB[..], &["--group", "g"]].concat(),             "---++++"),
        ([&SUB[..], &["--group", "other"]].concat(),         "---+-++"),
        (WATCH.to_vec(),                                     "--++-++"),
    ]
}

#[test]
fn what_a_token_does_not_allow_no_command_does() {
    let folder = Folder::new("rights");
    let hub = Hub::start(&folder.0.join("data"), &[]);
    let url = format!("ws://127.0.0.1:{}/ws", hub.address.port);
    let tokens = [
        &[][..],
        &["publish:**"],
        &["read:**"],
        &["subscribe:**"],
        &["consume:**:g"],
        &["*:**"],
        &["*:**", "publish:process.state"],
    ]
    .map(|scopes| token_for(scopes, 3600));
    let run = |args: &[&str], token: &str| prom(args, &[("PROM_URL", &url), ("PROM_TOKEN", token)], &folder.0);
    for (args, row) in table() {
        assert_eq!(row.len(), tokens.len());
        for (token, allowed) in tokens.iter().zip(row.chars()) {
            if args[0] == "sub" {
                // A group that has read everything would wait.
                assert!(run(&["pub", "a", "1"], &hub.address.token).status.success());
            }
            let output = run(&args, token);
            let said = String::from_utf8_lossy(&output.stderr);
            let as_expected = match allowed {
                '+' => output.status.success(),
                _ => !output.status.success() && said.contains("permission"),
            };
            assert!(as_expected, "{args:?} should be {allowed} in {row}: {}, {said}", output.status);
        }
    }
}

/// Commands that ask the ops port.
#[rustfmt::skip]
fn operators() -> Vec<(Vec<&'static str>, &'static str)> {
    //  n none  a everything  o ops:read  m ops:admin
    vec![
        //                                                    naom
        (vec!["topic", "delete", "a", "--dry-run"],          "---+"),
        (vec!["group", "delete", "g", "--dry-run"],          "---+"),
        (vec!["ops", "revoke", "--sub", "x"],                "---+"),
    ]
}

#[test]
fn what_a_token_does_not_allow_no_command_of_operators_does() {
    let folder = Folder::new("rights-ops");
    let file = folder.0.join("revoked.jsonl");
    std::fs::write(&file, "").unwrap();
    let environment = [("PROM_OPS_AUTH", "1"), ("REVOCATIONS_FILE", file.to_str().unwrap())];
    let hub = Hub::start(&folder.0.join("data"), &environment);
    let (url, ops) =
        (format!("ws://127.0.0.1:{}/ws", hub.address.port), format!("http://127.0.0.1:{}", hub.ops_port()));
    for args in [&["pub", "a", "1"][..], &[&SUB[..], &["--group", "g"]].concat()] {
        let output = prom(args, &[("PROM_URL", &url), ("PROM_TOKEN", &hub.address.token)], &folder.0);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let tokens = [&[][..], &["*:**"], &["ops:read"], &["ops:admin"]].map(|scopes| token_for(scopes, 3600));
    for (args, row) in operators() {
        assert_eq!(row.len(), tokens.len());
        for (token, allowed) in tokens.iter().zip(row.chars()) {
            let output = prom(&args, &[("PROM_OPS_URL", &ops), ("OPS_TOKEN", token)], &folder.0);
            let said = String::from_utf8_lossy(&output.stderr);
            let as_expected = match allowed {
                '+' => output.status.success(),
                _ => !output.status.success() && said.contains("no operator permission: the token needs ops:admin"),
            };
            assert!(as_expected, "{args:?} should be {allowed} in {row}: {}, {said}", output.status);
        }
        let output = prom(&args, &[("PROM_OPS_URL", &ops)], &folder.0);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("missing token"), "{args:?} without a token: {said}");
    }
}

/// All commands there are, those below others too.
fn walk(above: &[String], found: &mut Vec<Vec<String>>) {
    let folder = Folder::new("rights-help");
    let args: Vec<&str> = above.iter().map(String::as_str).chain(["--help"]).collect();
    let help = prom(&args, &[], &folder.0);
    assert!(help.status.success(), "{args:?}");
    let help = String::from_utf8_lossy(&help.stdout);
    let Some((_, commands)) = help.split_once("Commands:\n") else { return found.push(above.to_vec()) };
    let names = commands
        .lines()
        .take_while(|line| line.starts_with("  "))
        .filter_map(|line| line.split_whitespace().next().filter(|_| !line.starts_with("    ")))
        .filter(|name| *name != "help");
    for name in names {
        walk(&[above, &[name.to_owned()]].concat(), found);
    }
}

#[test]
fn every_command_has_a_line_in_the_table() {
    let mut commands = Vec::new();
    walk(&[], &mut commands);
    for known in [&["pub"][..], &["store", "verify"], &["ops", "revoke"]] {
        assert!(commands.iter().any(|command| command == known), "{commands:?}");
    }
    let table: Vec<Vec<&str>> = table().into_iter().chain(operators()).map(|(args, _)| args).collect();
    let lines = || table.iter().map(Vec::as_slice).chain(HERE).chain(LIKE_OTHERS);
    let is_of = |line: &[&str], command: &[String]| {
        line.len() >= command.len() && line.iter().zip(command).all(|(one, own)| one == own)
    };
    let missing: Vec<_> = commands.iter().filter(|command| !lines().any(|line| is_of(line, command))).collect();
    assert!(missing.is_empty(), "nothing is said of who may use {missing:?}");
    // A line of a command that is no more says nothing.
    let gone: Vec<_> = lines().filter(|line| !commands.iter().any(|command| is_of(line, command))).collect();
    assert!(gone.is_empty(), "there are no such commands: {gone:?}");
}
