//! Topics and groups of a hub that runs, deleted from the command line.

use std::{process::Output, time::Instant};

use prom_testkit::DEADLINE;

use crate::common::{Folder, hub::Hub, prom};

#[test]
fn topics_and_groups_are_deleted_after_a_look_at_what_would_go() {
    let folder = Folder::new("operate");
    let hub = Hub::start(&folder.0.join("data"), &[]);
    let (url, ops) =
        (format!("ws://127.0.0.1:{}/ws", hub.address.port), format!("http://127.0.0.1:{}", hub.ops_port()));
    let client = |args: &[&str]| {
        let output = prom(args, &[("PROM_URL", &url), ("PROM_TOKEN", &hub.address.token)], &folder.0);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let operate = |args: &[&str]| prom(args, &[("PROM_OPS_URL", &ops)], &folder.0);
    let said = |output: Output| {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    for topic in ["a.b", "a.c"] {
        for payload in ["1", "2"] {
            client(&["pub", topic, payload]);
        }
        client(&["sub", topic, "--group", "g", "--from", "earliest", "--count", "1"]);
    }
    let would = said(operate(&["topic", "delete", "a.b", "--dry-run"]));
    assert_eq!(would, "would delete topic a.b: 2 events, positions of g\n");
    let done = said(operate(&["topic", "delete", "a.b"]));
    assert_eq!(done, "deleted topic a.b: 2 events, positions of g\n");
    let again = operate(&["topic", "delete", "a.b"]);
    assert!(!again.status.success());
    assert_eq!(String::from_utf8(again.stderr).unwrap(), "prom: there is no topic a.b\n");
    let would = said(operate(&["group", "delete", "g", "--dry-run"]));
    assert!(would.starts_with("would delete group g: 1 positions\n  a.c: at 1, 1 events not settled\n"), "{would}");
    let elsewhere = operate(&["group", "delete", "g", "--topic", "a.b"]);
    assert!(String::from_utf8_lossy(&elsewhere.stderr).contains("group g has no position in a.b"));
    let done = said(operate(&["group", "delete", "g", "--json"]));
    assert!(done.contains("\"deleted\":true"), "{done}");
    let own = operate(&["topic", "delete", "$audit"]);
    assert!(String::from_utf8_lossy(&own.stderr).contains("are the hub's own"), "{own:?}");
    let nobody = prom(&["topic", "delete", "a.c"], &[("PROM_OPS_URL", "http://127.0.0.1:1")], &folder.0);
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("no hub at http://127.0.0.1:1; --ops-url"), "{nobody:?}");
    let wrong = prom(&["topic", "delete", "a.c"], &[("PROM_OPS_URL", "ftp://127.0.0.1:1")], &folder.0);
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("must be like http://127.0.0.1:8082"), "{wrong:?}");
}

#[test]
fn a_token_for_operators_leaves_this_machine_only_over_tls() {
    let folder = Folder::new("operate-plaintext");
    // An address for documentation: nobody answers there, and nobody is asked.
    let far = "http://192.0.2.1:8082";
    let ask = |environment: &[(&str, &str)], more: &[&str]| {
        let args = [&["topic", "delete", "a.c", "--timeout", "200ms"][..], more].concat();
        let output = prom(&args, &[&[("PROM_OPS_URL", far)][..], environment].concat(), &folder.0);
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let token = [("OPS_TOKEN", "0123456789abcdef0123456789abcdef")];
    assert!(ask(&token, &[]).contains("would carry the token where others can read it"));
    for said in [ask(&token, &["--allow-plaintext"]), ask(&[], &[])] {
        assert!(!said.contains("would carry"), "{said}");
    }
}

#[test]
fn tokens_are_revoked_at_the_hub_and_in_its_file() {
    let folder = Folder::new("revoke");
    let file = folder.0.join("revoked.jsonl");
    std::fs::write(&file, "").unwrap();
    let hub = Hub::start(&folder.0.join("data"), &[("REVOCATIONS_FILE", file.to_str().unwrap())]);
    let (url, ops) =
        (format!("ws://127.0.0.1:{}/ws", hub.address.port), format!("http://127.0.0.1:{}", hub.ops_port()));
    let publish = |sub: &str| {
        let token = prom_testkit::token_with(
            serde_json::json!({ "sub": sub, "jti": format!("{sub}-1"), "scopes": ["publish:**"] }),
        );
        let output = prom(&["pub", "a.b", "1"], &[("PROM_URL", &url), ("PROM_TOKEN", &token)], &folder.0);
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let revoke_as = |token: &[(&str, &str)], args: &[&str]| {
        let environment = [&[("PROM_OPS_URL", ops.as_str())], token].concat();
        let output = prom(&[&["ops", "revoke"], args].concat(), &environment, &folder.0);
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    };
    for sub in ["one", "two", "three"] {
        assert!(publish(sub).0);
    }
    let (ok, said) = revoke_as(&[], &["--sub", "one"]);
    assert!(!ok && said.contains("OPS_TOKEN, or a token with ops:admin"), "{said}");
    let operator = prom_testkit::token_for(&["ops:admin"], 3600);
    let revoke = |args: &[&str]| revoke_as(&[("OPS_TOKEN", &operator)], args);
    let (ok, said) = revoke(&["--sub", "one"]);
    assert!(
        ok && said.contains("all tokens of \"one\", those made later too") && said.contains("1 of at most"),
        "{said}"
    );
    let (ok, said) = publish("one");
    assert!(!ok && said.contains("revoked"), "{said}");
    let (ok, said) = revoke(&["--jti", "two-1", "--file", file.to_str().unwrap()]);
    assert!(ok && said.contains("2 of at most"), "{said}");
    // The hub looks at its file by itself.
    let began = Instant::now();
    while publish("two").0 {
        assert!(began.elapsed() < DEADLINE, "the file does not count");
    }
    assert!(publish("three").0);
    let kept = std::fs::read_to_string(&file).unwrap();
    assert!(kept.contains("\"sub\":\"one\"") && kept.contains("\"jti\":\"two-1\""), "{kept}");
    for (args, words) in [
        (&["--sub", ""][..], "sub"),
        (&["--jti", "a", "--sub", "b"], "cannot be used with"),
        (&[], "required"),
        (&["--issued-before", "2999-01-01T00:00:00Z"], "must not be in the future"),
        (&["--sub", "a", "--file", "missing.jsonl"], "missing.jsonl"),
    ] {
        let (ok, said) = revoke(args);
        assert!(!ok && said.contains(words), "{args:?}: {said}");
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), kept);
}

#[test]
fn a_file_keeps_what_a_hub_may_still_need() {
    let folder = Folder::new("revoke-file");
    let file = folder.0.join("revoked.jsonl");
    let now = prom_testkit::now_secs();
    let days = |days: u64| now - days * 24 * 3600;
    let lines = [
        format!("{{\"jti\":\"ended\",\"at\":{}}}\n", days(1001)),
        format!("{{\"jti\":\"needed\",\"at\":{}}}\n", days(999)),
    ];
    std::fs::write(&file, lines.concat()).unwrap();
    // Whatever the shell says of a hub's settings.
    let args = ["ops", "revoke", "--jti", "new", "--file", "revoked.jsonl"];
    let output = prom(&args, &[("JWT_MAX_LIFETIME", "1d")], &folder.0);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let kept = std::fs::read_to_string(&file).unwrap();
    let last = kept.strip_prefix(&lines[1]).unwrap_or_else(|| panic!("not what it should be: {kept}"));
    assert!(last.starts_with("{\"jti\":\"new\",\"at\":") && last.lines().count() == 1, "{kept}");
}
