//! The commands that reach a hub, with every kind of policy: what is refused says so and ends with an error.

use prom_testkit::token_for;

use crate::common::{Folder, hub::Hub, prom};

/// Commands whose rights are not a client's: they run a hub, make tokens, open a folder or a database, or ask the ops port.
const NOT_A_CLIENT: [&str; 7] = ["hub", "dev", "token", "ops", "store", "outbox", "help"];
/// These publish and subscribe like `pub` and `sub`, over the same client, until they are stopped or for long.
const LIKE_OTHERS: [&str; 2] = ["heartbeat", "bench"];
/// These use the ops port, whose rights are walked in `server/tests/hub/rights.rs`.
const OPERATORS: [&str; 2] = ["topic", "group"];

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

#[test]
fn every_command_has_a_line_in_the_table() {
    let folder = Folder::new("rights-help");
    let help = prom(&["--help"], &[], &folder.0);
    let help = String::from_utf8_lossy(&help.stdout);
    let (_, commands) = help.split_once("Commands:\n").expect("a list of commands");
    let commands: Vec<&str> = commands
        .lines()
        .take_while(|line| line.starts_with("  "))
        .filter_map(|line| line.split_whitespace().next().filter(|_| !line.starts_with("    ")))
        .collect();
    assert!(commands.contains(&"pub") && commands.contains(&"store"), "{commands:?}");
    let table = table();
    for command in commands {
        let known = NOT_A_CLIENT.contains(&command)
            || LIKE_OTHERS.contains(&command)
            || OPERATORS.contains(&command)
            || table.iter().any(|(args, _)| args[0] == command);
        assert!(known, "nothing is said of who may use `prom {command}`");
    }
}
