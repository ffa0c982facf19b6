//! `prom dev --mongo`: a MongoDB server of its own, whose data stays and which itself does not.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    io::{BufRead as _, BufReader},
    net::TcpStream,
    process::{Child, Command},
    time::{Duration, Instant},
};

use common::{Folder, hub::request};

const PATIENCE: Duration = Duration::from_secs(120);
const DEV: [&str; 5] = ["dev", "--mongo", "--port=0", "--ops-port=0", "--no-heartbeat"];

/// A running `prom dev --mongo`, and what it printed. It is killed, by its process id, when this is dropped.
struct Dev {
    child: Child,
    port: u16,
    token: String,
    /// Host and port of its server.
    mongod: String,
}

impl Dev {
    fn start(folder: &Folder) -> Self {
        let mut child = common::start(&DEV, &[], &folder.0);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut said = |label: &str| {
            let line = lines.find_map(|line| line.trim().strip_prefix(label).map(|rest| rest.trim().to_owned()));
            line.unwrap_or_else(|| panic!("prom dev did not say `{label}`"))
        };
        let socket = said("WebSocket");
        let mongod = said("MongoDB").trim_start_matches("mongodb://").split('/').next().unwrap().to_owned();
        let token = said("Token");
        let port = socket.trim_end_matches("/ws").rsplit(':').next().unwrap().parse().unwrap();
        Self { child, port, token, mongod }
    }

    fn publish(&self, folder: &Folder) {
        let url = format!("ws://127.0.0.1:{}/ws", self.port);
        let args = ["pub", "orders.placed", "7", "--url", &url, "--token", &self.token];
        let output = common::prom(&args, &[], &folder.0);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn count(&self) -> u64 {
        let answer = request(self.port, "/replay?topic=orders.placed&from=earliest", Some(&self.token)).unwrap();
        let replay: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        replay["count"].as_u64().unwrap_or_else(|| panic!("{}", answer.body))
    }

    /// Waits until its server takes no connections any more.
    fn mongod_is_gone(&self) {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(&self.mongod).is_ok() {
            assert!(Instant::now() < deadline, "the server outlives its hub");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn events_outlive_the_hub_and_its_server_does_not() {
    let folder = Folder::new("dev-mongo");
    let mut dev = Dev::start(&folder);
    dev.publish(&folder);
    dev.signal("-TERM");
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = dev.child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < deadline, "prom dev does not end");
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(status.success(), "{status}");
    assert!(TcpStream::connect(&dev.mongod).is_err(), "the server outlives its hub");

    let again = Dev::start(&folder);
    assert_eq!(again.mongod, dev.mongod, "services would have to be told");
    assert_eq!(again.count(), 1);
    again.publish(&folder);

    // And when nobody can end it in good order.
    again.signal("-KILL");
    again.mongod_is_gone();
    assert_eq!(Dev::start(&folder).count(), 2);
}

fn refused(environment: &[(&str, &str)]) -> String {
    let folder = Folder::new(environment[0].0);
    let output = common::prom(&DEV, environment, &folder.0);
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn refuses_two_stores() {
    let error = refused(&[("MONGO_URL", "mongodb://127.0.0.1/")]);
    assert!(error.contains("--mongo and MONGO_URL are both set"), "{error}");
    let error = refused(&[("PROM_MEMORY_MB", "64")]);
    assert!(error.contains("--mongo and PROM_MEMORY_MB are both set"), "{error}");
}

#[test]
fn says_what_provides_a_server_when_there_is_none() {
    let error = refused(&[("MONGOD", "/no/such/mongod")]);
    assert!(error.contains("MONGOD is /no/such/mongod, which is no file; `npm run setup -- mongod`"), "{error}");
}
