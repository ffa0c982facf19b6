//! Topics and groups of a hub that runs, deleted from the command line.

use std::process::Output;

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
    let wrong = prom(&["topic", "delete", "a.c"], &[("PROM_OPS_URL", "https://127.0.0.1:1")], &folder.0);
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("must be like http://127.0.0.1:8082"), "{wrong:?}");
}
