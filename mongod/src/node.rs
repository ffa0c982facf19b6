//! One `mongod` process.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{guard::Guard, log, ports::Port};

/// The shell becomes `mongod` only when it reads a line, which it gets when the guard knows its process id: so no
/// `mongod` is ever left behind.
const GATE: &str = r#"read -r go && exec "$@" </dev/null"#;
/// How long a connection to this machine may take. It is there at once or not at all.
const CONNECTING: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) port: Port,
    dir: PathBuf,
    child: Option<Child>,
    stopped: bool,
}

impl Node {
    /// Makes the folder of a node. The node does not run yet.
    pub(crate) fn new(port: Port, dir: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(dir.join("db"))?;
        // Each run begins with an empty log, so that the log of a folder that is kept does not grow without limit.
        File::create(dir.join("mongod.log"))?;
        Ok(Self { port, dir, child: None, stopped: false })
    }

    pub(crate) fn start(&mut self, mongod: &Path, args: &[String], guard: &mut Guard) -> io::Result<()> {
        let log = OpenOptions::new().append(true).open(self.log_path())?;
        let mut child = Command::new("sh")
            .args(["-c", GATE, "mongod-gate"])
            .arg(mongod)
            .arg("--dbpath")
            .arg(self.dir.join("db"))
            .args(["--port", &self.port.number.to_string()])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()?;
        let gate = child.stdin.take();
        let known = guard.watch(child.id());
        let opened = known.and_then(|()| gate.map_or(Ok(()), |mut gate| gate.write_all(b"go\n")));
        self.child = Some(child);
        self.stopped = false;
        opened
    }

    /// Whether it can answer: it runs and was not stopped.
    pub(crate) fn is_awake(&self) -> bool {
        self.child.is_some() && !self.stopped
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// The status it ended with, if it ended by itself since the last call.
    pub(crate) fn ended(&mut self, guard: &mut Guard) -> io::Result<Option<ExitStatus>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let Some(status) = child.try_wait()? else { return Ok(None) };
        guard.forget(child.id())?;
        self.child = None;
        Ok(Some(status))
    }

    /// Ends it at once, also when it is stopped, and waits until it is gone.
    pub(crate) fn kill(&mut self, guard: &mut Guard) -> io::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        child.kill()?;
        let forgotten = guard.forget(child.id());
        child.wait()?;
        forgotten
    }

    /// Sends SIGTERM. A node that was stopped is resumed, for it could not end otherwise.
    pub(crate) fn ask_to_end(&mut self) -> io::Result<()> {
        if self.child.is_some() {
            self.signal(Signal::TERM)?;
            self.resume()?;
        }
        Ok(())
    }

    pub(crate) fn stop(&mut self) -> io::Result<()> {
        self.signal(Signal::STOP)?;
        self.stopped = true;
        Ok(())
    }

    pub(crate) fn resume(&mut self) -> io::Result<()> {
        self.signal(Signal::CONT)?;
        self.stopped = false;
        Ok(())
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        let pid = self.child.as_ref().and_then(|child| Pid::from_raw(i32::try_from(child.id()).ok()?));
        Ok(kill_process(pid.ok_or(io::ErrorKind::NotFound)?, signal)?)
    }

    /// Whether something takes connections on its port.
    pub(crate) fn is_listening(&self) -> bool {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port.number));
        TcpStream::connect_timeout(&address, CONNECTING).is_ok()
    }

    pub(crate) fn log_tail(&self) -> String {
        log::tail(&self.log_path())
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("mongod.log")
    }
}
