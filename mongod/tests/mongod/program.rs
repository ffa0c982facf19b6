//! The program `prom-mongod`, as tests in other languages use it, and what is left when it is killed.

use std::{
    io::{BufReader, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use prom_mongod::{Options, ReplicaSet};
use serde_json::{Value, json};

use crate::{gone, transact, until};

/// A running program, and what it said when its set was up.
struct Program {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    hosts: Vec<String>,
    dir: PathBuf,
}

impl Program {
    fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_prom-mongod"));
        let mut child = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let said = next(&mut output);
        let hosts = said["hosts"].as_array().unwrap().iter().map(|host| host.as_str().unwrap().to_owned()).collect();
        let dir = said["dir"].as_str().unwrap().into();
        assert!(said["url"].as_str().unwrap().starts_with("mongodb://127.0.0.1:"), "{said}");
        assert_eq!(said["pids"].as_array().unwrap().len(), said["hosts"].as_array().unwrap().len());
        Self { child, input, output, hosts, dir }
    }

    fn ask(&mut self, command: &str) -> Value {
        writeln!(self.input, "{command}").unwrap();
        next(&mut self.output)
    }

    fn killed(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn next(output: &mut impl std::io::BufRead) -> Value {
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
}

#[tokio::test]
async fn disturbs_its_set_as_it_is_told_and_ends_with_its_input() {
    let mut program = Program::start(&["3"]);
    let first = program.ask("primary")["primary"].as_u64().unwrap();
    assert_eq!(program.ask(&format!("kill {first}")), json!({ "node": first, "pid": null }));
    assert_ne!(program.ask("primary")["primary"], first);
    assert!(program.ask(&format!("start {first}"))["pid"].is_u64());
    assert!(program.ask("stop 1")["pid"].is_u64());
    assert!(program.ask("resume 1")["pid"].is_u64());

    let Program { mut child, input, hosts, dir, .. } = program;
    drop(input);
    assert!(child.wait().unwrap().success());
    gone(&hosts).await;
    assert!(!dir.exists(), "{} is still there", dir.display());
}

#[tokio::test]
async fn says_what_it_cannot_do_and_goes_on() {
    let mut program = Program::start(&[]);
    for (command, reason) in [
        ("kill 1", "node is 1, of 1 nodes"),
        ("start 0", "cannot start node 0: entity already exists"),
        ("kill", "\"kill\" is none of: primary, kill N, start N, stop N, resume N"),
        ("mend 0", "\"mend 0\" is none of: primary, kill N, start N, stop N, resume N"),
    ] {
        assert_eq!(program.ask(command), json!({ "error": reason }));
    }
    assert_eq!(program.ask("primary"), json!({ "primary": 0 }));
    drop(program.input);
    program.child.wait().unwrap();
}

#[test]
fn refuses_what_is_no_number_of_nodes() {
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_prom-mongod")).args(arguments).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert_eq!(run(&["many"]), "prom-mongod: NODES is many, which is no number\n");
    assert_eq!(run(&["0"]), "prom-mongod: nodes is 0, not 1 to 7, which is how many have a vote\n");
}

/// Has three nodes, one killed, one stopped, when the program is killed; returns the folder when the nodes are gone.
async fn killed(arguments: &[&str]) -> PathBuf {
    let mut program = Program::start(arguments);
    program.ask("kill 1");
    program.ask("stop 2");
    // The stopped one too: the system takes connections for it.
    let up = [0, 2].map(|node: usize| TcpStream::connect(&program.hosts[node]).is_ok());
    assert_eq!(up, [true, true]);
    let (hosts, dir) = (program.hosts.clone(), program.dir.clone());
    assert!(dir.is_dir());

    program.killed();
    gone(&hosts).await;
    dir
}

#[tokio::test]
async fn nothing_is_left_of_a_process_that_was_killed() {
    let dir = killed(&["3"]).await;
    until("the folder to be gone", async || !dir.exists()).await;
}

#[tokio::test]
async fn a_folder_that_is_kept_outlives_a_process_that_was_killed() {
    let dir = tempfile::tempdir().unwrap();
    // Here nothing but the guard ends the nodes; without a folder they would not live long in any case.
    killed(&["3", dir.path().to_str().unwrap()]).await;
    let options = Options { nodes: 3, dir: Some(Path::to_owned(dir.path())), ..Options::default() };
    let set = ReplicaSet::start(options).await.unwrap();
    transact(&set.client().await.unwrap(), "test").await.unwrap();
}
