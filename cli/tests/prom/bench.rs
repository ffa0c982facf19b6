//! `prom bench --self`: the hub it starts is measured, and is gone afterwards whatever happens.

use std::path::Path;

use serde_json::Value;

use crate::common::{Folder, prom};

/// Temporary folders of the bench go into `folder`.
fn bench(args: &[&str], folder: &Path) -> std::process::Output {
    prom(&[&["bench"], args].concat(), &[("TMPDIR", folder.to_str().unwrap())], folder)
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().next().is_none()
}

#[test]
fn a_hub_of_its_own_is_measured_and_removed() {
    let folder = Folder::new("bench-self");
    let output = bench(&["--self", "--times", "3", "publish", "--count", "500", "--json", "-"], &folder.0);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let row = &report["rows"][0];
    assert_eq!(
        (&row["scenario"], &row["events"], &row["findings"]["lost"]),
        (&"publish".into(), &500.into(), &0.into())
    );
    assert_eq!(row["runs"].as_array().unwrap().len(), 3);
    assert_eq!(report["hub"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(row["hubRssKb"].is_u64(), cfg!(target_os = "linux"));
    assert!(is_empty(&folder.0));
}

#[test]
fn a_table_names_the_durability_and_a_file_takes_the_json() {
    let folder = Folder::new("bench-table");
    let output = bench(&["--self", "deliver", "--count", "100", "--json", "out.json"], &folder.0);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("durability") && table.contains("deliver   100 to 1 x 1000 in flight"), "{table}");
    let report: Value = serde_json::from_slice(&std::fs::read(folder.0.join("out.json")).unwrap()).unwrap();
    assert_eq!(report["rows"][0]["events"], 100);
}

#[cfg(unix)]
#[test]
fn rows_of_an_outbox_are_timed_on_a_mongodb_of_its_own() {
    let folder = Folder::new("bench-outbox-rate");
    let args = ["--self", "--mongo", "outbox", "--rate", "100", "--seconds", "1", "--keys", "7", "--json", "-"];
    let output = bench(&args, &folder.0);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let row = &report["rows"][0];
    assert_eq!(
        (&report["hub"]["store"], &row["scenario"], &row["events"]),
        (&"mongodb".into(), &"outbox".into(), &100.into())
    );
    for times in ["transaction", "delivered"] {
        let at = |name: &str| row["outbox"][times][name].as_f64().unwrap();
        assert!(at("p50") > 0.0 && at("p50") <= at("p99") && at("p99") <= at("max"), "{times} of {row}");
    }
    assert!(row["runs"][0] == row["outbox"]["delivered"]["p99"], "{row}");
    assert_eq!(row["mongodCpuSecondsPerMillion"].is_f64(), cfg!(target_os = "linux"));
    assert!(is_empty(&folder.0), "its server or its hub has left something");
}

#[cfg(unix)]
#[test]
fn rows_that_are_there_at_once_are_drained_from_the_outbox_that_was_named() {
    let folder = Folder::new("bench-outbox-drain");
    let args = ["--self", "--mongo", "outbox", "--drain", "1200", "--outbox", "shop.letters", "--json", "out.json"];
    let output = bench(&args, &folder.0);
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{table}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(table.contains("store mongodb") && table.contains("1200 at once, 256 B, 1000 keys"), "{table}");
    let report: Value = serde_json::from_slice(&std::fs::read(folder.0.join("out.json")).unwrap()).unwrap();
    let row = &report["rows"][0];
    assert_eq!(
        (&row["events"], &row["outbox"], &row["parameters"]["drain"]),
        (&1200.into(), &Value::Null, &1200.into())
    );
    assert!(row["rate"].as_f64().unwrap() > 0.0);
}

#[cfg(unix)]
#[test]
fn any_scenario_runs_on_a_mongodb_of_its_own_a_fresh_one_each_time() {
    let folder = Folder::new("bench-mongo");
    let output = bench(&["--self", "--mongo", "--times", "2", "publish", "--count", "300", "--json", "-"], &folder.0);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["hub"]["store"], &report["rows"][0]["events"]), (&"mongodb".into(), &300.into()));
    assert!(is_empty(&folder.0));
}

#[test]
fn what_cannot_be_measured_is_said() {
    let folder = Folder::new("bench-refused");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("ws://127.0.0.1:{free}/ws");
    for (args, said) in [
        (&["--self", "publish", "--window", "0"][..], "window must be 1 to 100000, not 0"),
        (&["--self", "--times", "0", "idle"], "--times"),
        (&["--durability", "os", "idle"], "--self"),
        (&["--mongo", "idle"], "--self"),
        (&["--self", "outbox"], "`outbox` writes rows to the hub's MongoDB"),
        (&["--token", "x", "outbox"], "`outbox` writes rows to the hub's MongoDB"),
        (&["--self", "--mongo", "outbox", "--outbox", "a b"], "--outbox: `a b` is no collection"),
        (&["--self", "--mongo", "outbox", "--drain", "1"], "drain must be 2 to 100000, not 1"),
        (&["--self", "--mongo", "outbox", "--drain", "9", "--rate", "9"], "cannot be used with"),
        (&["idle"], "no token"),
        (&["--token", "x", "--url", &url, "idle"], "not every measurement could be made"),
    ] {
        let output = bench(args, &folder.0);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains(said), "{args:?} says {text}");
    }
    let output = bench(&["--token", "x", "--url", &url, "idle"], &folder.0);
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(table.contains(&format!("cannot connect to {url}")), "{table}");
}

#[cfg(target_os = "linux")]
#[test]
fn an_interruption_ends_the_hub_and_removes_its_folder() {
    use std::{
        process::Command,
        time::{Duration, Instant},
    };

    let folder = Folder::new("bench-interrupted");
    let args = ["bench", "--self", "latency", "--duration", "60s"];
    let child = crate::common::start(&args, &[("TMPDIR", folder.0.to_str().unwrap())], &folder.0);
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    let deadline = Instant::now() + Duration::from_secs(120);
    let hub = loop {
        // The first thread is the one that starts hubs.
        let hub = std::fs::read_to_string(&children).unwrap_or_default();
        if !hub.trim().is_empty() && !is_empty(&folder.0) {
            break hub.trim().to_owned();
        }
        assert!(Instant::now() < deadline, "no hub was started");
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = crate::common::finish(child);
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("interrupted"), "{text}");
    assert!(!Path::new(&format!("/proc/{hub}")).exists(), "the hub is still there");
    assert!(is_empty(&folder.0));
}
