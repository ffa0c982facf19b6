//! Runs the binary as a person would.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

pub mod hub;
pub mod ledger;
pub mod mount;
pub mod wire;

use std::{
    io::{Read, Write},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// Runs `prom` with nothing of this test run's own configuration, and with a deadline.
pub fn prom(args: &[&str], environment: &[(&str, &str)], folder: &Path) -> Output {
    finish(start(args, environment, folder))
}

/// The same, to be finished later.
pub fn start(args: &[&str], environment: &[(&str, &str)], folder: &Path) -> Child {
    let mut command = command(args, environment, folder);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// `prom` with these arguments, nothing of this test run's own configuration, and no input.
pub fn command(args: &[&str], environment: &[(&str, &str)], folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_prom"));
    for (name, _) in std::env::vars() {
        if ["WS_", "OPS_", "JWT_", "PROM_", "MONGO_"].iter().any(|own| name.starts_with(own))
            || name == "BIND"
            || name == "RUST_LOG"
        {
            command.env_remove(name);
        }
    }
    command.args(args).envs(environment.iter().copied()).current_dir(folder).stdin(Stdio::null());
    command
}

/// Says something past the test harness, which shows nothing of a test that passes.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Waits for its end, but not for ever.
pub fn finish(mut child: Child) -> Output {
    let deadline = Instant::now() + Duration::from_secs(120);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("prom did not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    child.stdout.take().unwrap().read_to_end(&mut stdout).unwrap();
    child.stderr.take().unwrap().read_to_end(&mut stderr).unwrap();
    Output { status, stdout, stderr }
}

/// A folder of this test's own.
pub struct Folder(pub std::path::PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("prom-cli-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
