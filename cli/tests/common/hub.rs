//! A `prom hub` as its own process on a given data folder, and the plain HTTP it answers.

use std::{
    fs::File,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use prom_testkit::{DEADLINE, SECRET, token_for};
use serde_json::Value;

/// Where a hub is, and a token for it.
#[derive(Debug, Clone)]
pub struct Address {
    pub port: u16,
    pub token: String,
}

/// A running hub. It is killed, by its process id, when this is dropped.
pub struct Hub {
    child: Child,
    pub address: Address,
    ops_port: u16,
    /// From its start to its first answer.
    pub ready_after: Duration,
    log: PathBuf,
}

impl Hub {
    /// Starts one that keeps its events in `data`, and waits until it answers.
    pub fn start(data: &Path, environment: &[(&str, &str)]) -> Self {
        let hub = Self::launch(data.parent().unwrap(), data, environment);
        hub.unwrap_or_else(|(status, log)| panic!("the hub ended with {status}:\n{log}"))
    }

    /// Starts one and waits until it answers, ready or not.
    pub fn alive(from: &Path, data: &Path, environment: &[(&str, &str)]) -> Self {
        let hub = Self::launch_until("/healthz", from, data, environment);
        hub.unwrap_or_else(|(status, log)| panic!("the hub ended with {status}:\n{log}"))
    }

    /// The same, from a folder it logs to; a hub that ends instead gives its status and what it said.
    pub fn launch(from: &Path, data: &Path, environment: &[(&str, &str)]) -> Result<Self, (ExitStatus, String)> {
        Self::launch_until("/readyz", from, data, environment)
    }

    fn launch_until(
        path: &str,
        from: &Path,
        data: &Path,
        environment: &[(&str, &str)],
    ) -> Result<Self, (ExitStatus, String)> {
        let (port, ops_port) = free_ports();
        let log = from.join(format!("hub-{port}.log"));
        let mut command = super::command(&["hub"], environment, from);
        command
            .env("WS_PORT", port.to_string())
            .env("OPS_PORT", ops_port.to_string())
            .env("PROM_DATA", data)
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap());
        let own = |(name, _): &(&str, &str)| {
            name.starts_with("JWT_SECRET") || name.starts_with("WS_TOKEN") || *name == "JWT_JWKS_URL"
        };
        if !environment.iter().any(own) {
            command.env("JWT_SECRET", SECRET);
        }
        let started = Instant::now();
        let child = command.spawn().unwrap();
        let mut hub = Self {
            child,
            address: Address { port, token: token_for(&["*:**", "ops:read"], 24 * 3600) },
            ops_port,
            ready_after: Duration::ZERO,
            log,
        };
        loop {
            // It listens before its store is open, and answers after.
            if let Ok(answer) = request(ops_port, path, None)
                && answer.status == 200
            {
                hub.ready_after = started.elapsed();
                return Ok(hub);
            }
            if let Some(status) = hub.child.try_wait().unwrap() {
                return Err((status, hub.log()));
            }
            assert!(started.elapsed() < DEADLINE, "the hub does not come up:\n{}", hub.log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// `kill -9`, and that it is gone.
    pub fn kill(mut self) -> String {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.log()
    }

    /// SIGTERM, and how it ended and after what time.
    pub fn terminate(mut self) -> (ExitStatus, Duration, String) {
        let began = Instant::now();
        let sent = std::process::Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status, began.elapsed(), self.log());
            }
            assert!(began.elapsed() < DEADLINE, "the hub does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A page of a topic behind `after`.
    pub fn replay(&self, topic: &str, after: u64) -> Value {
        let path = format!("/replay?topic={topic}&from=afterSeq&afterSeq={after}&limit=1000");
        let path = if after == 0 { format!("/replay?topic={topic}&from=earliest&limit=1000") } else { path };
        request(self.address.port, &path, Some(&self.address.token)).unwrap().json()
    }

    /// All of a topic, one event a line.
    pub fn export(&self, topic: &str) -> String {
        let path = format!("/export?topic={topic}&ndjson=1");
        let answer = request(self.address.port, &path, Some(&self.address.token)).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body
    }

    /// What the ops port says.
    pub fn ops(&self, path: &str) -> Value {
        self.ask(path).json()
    }

    /// The same, whatever its status.
    pub fn ask(&self, path: &str) -> Answer {
        request(self.ops_port, path, Some(&self.address.token)).unwrap()
    }

    pub fn ops_port(&self) -> u16 {
        self.ops_port
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An answer of HTTP.
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    fn json(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        self.parsed()
    }

    /// Its JSON, whatever its status.
    pub fn parsed(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// One GET on a connection of its own.
pub fn request(port: u16, path: &str, token: Option<&str>) -> std::io::Result<Answer> {
    let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    socket.set_read_timeout(Some(DEADLINE))?;
    let authorization = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost\r\n{authorization}Connection: close\r\n\r\n")?;
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes)?;
    let text = String::from_utf8(bytes).unwrap();
    let cut = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(cut)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(cut)?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { dechunked(body).ok_or_else(cut)? } else { body.to_owned() };
    Ok(Answer { status, body })
}

/// The body of a chunked answer; none when it does not end with its last chunk.
fn dechunked(mut rest: &str) -> Option<String> {
    let mut body = String::with_capacity(rest.len());
    loop {
        let (size, after) = rest.split_once("\r\n")?;
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.push_str(after.get(..size)?);
        rest = after.get(size + 2..)?;
    }
}

/// Two ports nobody listens on, different because both are held before either is given up.
fn free_ports() -> (u16, u16) {
    let ports = [0, 0].map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap());
    let [ws, ops] = ports.map(|listener| listener.local_addr().unwrap().port());
    (ws, ops)
}
