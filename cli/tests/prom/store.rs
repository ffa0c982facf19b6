//! `prom store` on a data folder, as a person would use it.

use std::{io::Write, path::Path};

use prom_hub::{
    embedded::{EmbeddedStore, Options},
    store::{Append, Batch, Store},
};
use prom_protocol::{EventOptions, Topic, encode_event_body};

use crate::common::{Folder, prom};

/// A store of 300 events in several segments, closed.
fn fill(path: &Path) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let options = Options { segment_bytes: 16 * 1024, ..Options::default() };
        let store = EmbeddedStore::open(path, options).unwrap();
        for i in 0..300 {
            let topic = if i % 3 == 0 { "b" } else { "a" };
            let mut body = Vec::new();
            encode_event_body(&mut body, topic, &EventOptions::default(), &format!("[{i},\"{}\"]", "x".repeat(100)));
            let append = Append { topic: Topic::new(topic).unwrap(), id: None, ts: None, key: None, body };
            store.commit(Batch { now: i, appends: vec![append], cursors: Vec::new() }).await.unwrap();
        }
        store.close().await.unwrap();
    });
}

fn store(args: &[&str], folder: &Path) -> (bool, String, String) {
    let output = prom(&[&["store"], args].concat(), &[], folder);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_folder_is_checked_looked_into_and_mended() {
    let folder = Folder::new("store");
    let data = folder.0.join("prom-data");
    fill(&data);
    let (ok, out, err) = store(&["verify"], &folder.0);
    assert!(ok && out.contains("the log is whole"), "{out}{err}");
    let (ok, out, _) = store(&["dump", "--topic", "a", "--after-seq", "190"], &folder.0);
    assert!(ok);
    let seqs: Vec<_> = out.lines().map(|line| prom_protocol::Event::parse(line).unwrap().seq).collect();
    assert_eq!(seqs, (191..=200).collect::<Vec<_>>());
    let (_, out, _) = store(&["stats"], &folder.0);
    assert!(out.contains("a: 200 events, 1 to 200") && out.contains("0000000002.log"), "{out}");
    let (_, out, _) = store(&["stats", "--json"], &folder.0);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&out).unwrap()["topics"][1]["events"], 100);

    // Only what can be made again.
    std::fs::write(data.join("index.redb"), "nonsense").unwrap();
    let (ok, out, err) = store(&["verify"], &folder.0);
    assert!(ok && out.contains("index.redb") && out.contains("made again"), "{out}{err}");

    let path = data.join("0000000001.log");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[5_000] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let (ok, out, err) = store(&["verify"], &folder.0);
    assert!(!ok && err.contains("is damaged"), "{out}{err}");
    for part in ["0000000001.log at byte", "lost of ", "prom store compact --drop-damaged --data ./prom-data"] {
        assert!(out.contains(part), "{part} is not in {out}");
    }
    let (ok, out, _) = store(&["verify", "--json"], &folder.0);
    assert!(!ok);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&out).unwrap()["lost"].as_array().unwrap().len(), 1);
    let (ok, _, err) = store(&["dump"], &folder.0);
    assert!(!ok && err.contains("prom store verify"), "{err}");
    let (ok, _, err) = store(&["compact"], &folder.0);
    assert!(!ok && err.contains("--drop-damaged"), "{err}");
    let (ok, out, err) = store(&["compact", "--drop-damaged"], &folder.0);
    assert!(ok && out.contains("lost of ") && out.contains("0000000001.log.damaged"), "{out}{err}");
    let (ok, out, err) = store(&["verify"], &folder.0);
    assert!(ok && out.contains("the log is whole"), "{out}{err}");
    let (_, out, _) = store(&["dump"], &folder.0);
    assert_eq!(out.lines().count(), 299);
}

#[test]
fn retention_from_a_file_is_applied_and_space_comes_back() {
    let folder = Folder::new("compact");
    fill(&folder.0.join("prom-data"));
    let mut config = std::fs::File::create(folder.0.join("prom.toml")).unwrap();
    write!(config, "[[retention]]\ntopics = \"*\"\nmax_events = 10\n").unwrap();
    let (ok, out, err) = store(&["compact", "--json", "--config", "prom.toml"], &folder.0);
    assert!(ok, "{out}{err}");
    let (_, out, _) = store(&["stats", "--json"], &folder.0);
    let stats: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(stats["segments"].as_array().unwrap().len() <= 3, "{out}");
    assert_eq!(stats["topics"][0]["last"], 200);
}

#[test]
fn a_folder_in_use_or_absent_is_refused() {
    let folder = Folder::new("inuse");
    let (ok, _, err) = store(&["verify", "--data", "nowhere"], &folder.0);
    assert!(!ok && err.contains("there is no data folder at nowhere"), "{err}");
    assert!(!folder.0.join("nowhere").exists());
    let data = folder.0.join("prom-data");
    fill(&data);
    let held = EmbeddedStore::open(&data, Options::default()).unwrap();
    for command in ["verify", "stats", "dump", "compact"] {
        let (ok, _, err) = store(&[command], &folder.0);
        assert!(!ok && err.contains("in use"), "{command}: {err}");
    }
    drop(held);
}
