//! `prom-mongod [NODES [FOLDER]]`: a replica set for tests that are not written in Rust.
//!
//! Starts a set of so many nodes, 1 unless told, in that folder or in a temporary one. When it has a primary, it prints
//! one line of JSON: `{"url": "mongodb://…", "hosts": ["127.0.0.1:15000", …], "pids": [17, …], "dir": "/tmp/…"}`. Then it
//! reads commands from its input, one a line, and answers each, in order, with one line of JSON:
//!
//! | command | does | answer |
//! |---|---|---|
//! | `primary` | waits until there is a primary | `{"primary": 0}`, its number |
//! | `kill 0` | kills node 0 with SIGKILL; it is gone when this is answered | `{"node": 0, "pid": null}` |
//! | `start 0` | starts node 0 again after a kill; it takes connections when this is answered | `{"node": 0, "pid": 18}` |
//! | `stop 0` | stops node 0 with SIGSTOP: it keeps its connections and answers nothing | `{"node": 0, "pid": 17}` |
//! | `resume 0` | lets a stopped node go on | `{"node": 0, "pid": 17}` |
//!
//! What cannot be done is answered with `{"error": "…"}`. The set ends when the input ends or when this process is killed.

use std::process::ExitCode;

#[cfg(unix)]
fn main() -> ExitCode {
    match program::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("prom-mongod: {}", program::with_sources(&*error));
            ExitCode::FAILURE
        }
    }
}

#[cfg(not(unix))]
fn main() -> ExitCode {
    eprintln!("prom-mongod: works on Linux and macOS only");
    ExitCode::FAILURE
}

#[cfg(unix)]
mod program {
    use std::{
        error::Error,
        io::{self, BufRead as _, Write as _},
    };

    use prom_mongod::{Options, ReplicaSet};
    use serde_json::{Value, json};

    pub(crate) fn run() -> Result<(), Box<dyn Error>> {
        let options = options(std::env::args().skip(1))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let set = runtime.block_on(ReplicaSet::start(options))?;
        say(&json!({ "url": set.url(), "hosts": set.hosts(), "pids": set.pids(), "dir": set.dir() }))?;
        for line in io::stdin().lock().lines() {
            let answer = runtime.block_on(obey(&set, line?.trim()));
            say(&answer.unwrap_or_else(|error| json!({ "error": with_sources(&*error) })))?;
        }
        Ok(runtime.block_on(set.shutdown())?)
    }

    fn options(mut arguments: impl Iterator<Item = String>) -> Result<Options, Box<dyn Error>> {
        let mut options = Options::default();
        if let Some(nodes) = arguments.next() {
            options.nodes = nodes.parse().map_err(|_| format!("NODES is {nodes}, which is no number"))?;
        }
        options.dir = arguments.next().map(Into::into);
        match arguments.next() {
            Some(more) => Err(format!("{more} is too much; usage: prom-mongod [NODES [FOLDER]]").into()),
            None => Ok(options),
        }
    }

    async fn obey(set: &ReplicaSet, command: &str) -> Result<Value, Box<dyn Error>> {
        if command == "primary" {
            return Ok(json!({ "primary": set.primary().await? }));
        }
        let unknown = || format!("{command:?} is none of: primary, kill N, start N, stop N, resume N");
        let (verb, node) = command.split_once(' ').ok_or_else(unknown)?;
        let node: usize = node.parse().map_err(|_| unknown())?;
        match verb {
            "kill" => set.kill(node)?,
            "start" => set.start_again(node).await?,
            "stop" => set.stop(node)?,
            "resume" => set.resume(node)?,
            _ => return Err(unknown().into()),
        }
        Ok(json!({ "node": node, "pid": set.pids()[node] }))
    }

    fn say(answer: &Value) -> io::Result<()> {
        let mut output = io::stdout().lock();
        writeln!(output, "{answer}")?;
        output.flush()
    }

    /// An error with all that caused it, on one line.
    pub(crate) fn with_sources(error: &dyn Error) -> String {
        let causes = std::iter::successors(Some(error), |error| (*error).source());
        causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
    }
}
