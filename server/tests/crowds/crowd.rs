//! A crowd: a process that opens hostile connections of one kind and holds them.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use prom_testkit::in_time;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What is wrong with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It says nothing.
    Silent,
    /// It stays after its answer.
    Kept,
    /// Its head never ends: 15 KiB of it.
    Head,
    /// Its request for a WebSocket never ends.
    Upgrade,
    /// A WebSocket without AUTH.
    Stranger,
    /// A WebSocket with two bad tokens: a third would end it.
    Guess,
    /// A WebSocket that sends all of its first frame but a byte, and it says that it is of 1 MiB.
    Frame,
    /// A WebSocket that pings and reads nothing.
    Pings,
    /// Ends as soon as it began.
    Brief,
    /// A page of `/replay` that it does not read.
    Unread,
    /// An export that it does not read.
    Export,
    /// A body of which half comes.
    Body,
    /// Does not come to the hub but to a port of the crowd's own: what a crowd costs the machine, whoever answers it.
    Elsewhere,
}

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";

fn get(path: &str, token: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n")
}

impl Kind {
    pub(crate) const ALL: [Self; 12] = [
        Self::Silent,
        Self::Kept,
        Self::Head,
        Self::Upgrade,
        Self::Stranger,
        Self::Guess,
        Self::Frame,
        Self::Pings,
        Self::Brief,
        Self::Unread,
        Self::Export,
        Self::Body,
    ];

    /// Does what it does on a fresh connection. The hub may hang up on it at any moment.
    fn act(self, stream: &mut TcpStream, token: &str) -> std::io::Result<()> {
        match self {
            Self::Silent | Self::Elsewhere => {}
            Self::Kept => {
                stream.write_all(b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n")?;
                stream.read_exact(&mut [0; 64])?;
            }
            Self::Head => {
                stream.write_all(format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(15_000)).as_bytes())?;
            }
            Self::Upgrade => stream.write_all(&UPGRADE.as_bytes()[..UPGRADE.len() - 2])?,
            Self::Stranger => {
                stream.write_all(UPGRADE.as_bytes())?;
                stream.read_exact(&mut [0; 64])?;
            }
            Self::Guess => {
                stream.write_all(UPGRADE.as_bytes())?;
                stream.read_exact(&mut [0; 64])?;
                let guess = br#"{"op":"AUTH","token":"a.b.c"}"#;
                let frame = [&[0x81, 0x80 | guess.len() as u8, 0, 0, 0, 0], &guess[..]].concat();
                stream.write_all(&frame.repeat(2))?;
            }
            Self::Frame => {
                stream.write_all(UPGRADE.as_bytes())?;
                stream.read_exact(&mut [0; 64])?;
                stream.write_all(&[0x81, 0xFF, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0])?;
                stream.write_all(&vec![b' '; (1 << 20) - 1])?;
            }
            Self::Pings => {
                stream.write_all(UPGRADE.as_bytes())?;
                stream.read_exact(&mut [0; 64])?;
                let mut ping = vec![0x89, 0xFD, 0, 0, 0, 0];
                ping.extend([b'x'; 125]);
                // As many as are taken at once: more than the answers have room for in the buffers of the system.
                stream.set_nonblocking(true)?;
                let pings = ping.repeat(1000);
                for _ in 0..32 {
                    if stream.write(&pings)? < pings.len() {
                        break;
                    }
                }
            }
            Self::Brief => stream.shutdown(Shutdown::Both)?,
            Self::Unread => {
                stream.write_all(get("/replay?topic=large", token).as_bytes())?;
            }
            Self::Export => stream.write_all(get("/export?topic=large&ndjson=1", token).as_bytes())?,
            Self::Body => {
                let ask = format!(
                    "POST /publish/bad HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\nAuthorization: Bearer {token}\r\n\r\n"
                );
                stream.write_all(ask.as_bytes())?;
                stream.set_nonblocking(true)?;
                let _ = stream.write(&vec![b' '; 500_000])?;
            }
        }
        Ok(())
    }
}

/// The process. It ends with this.
pub(crate) struct Crowd {
    process: Child,
    arrived: Option<tokio::sync::oneshot::Receiver<()>>,
}

impl Crowd {
    /// `tokens` are used in turn.
    pub(crate) fn start(kind: Kind, count: usize, hub: SocketAddr, tokens: &[String]) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "crowd::is_a_crowd", "--nocapture"])
            .envs([("CROWD_KIND", format!("{kind:?}")), ("CROWD_COUNT", count.to_string())])
            .envs([("CROWD_HUB", hub.to_string()), ("CROWD_TOKENS", tokens.join(" "))])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let (told, arrived) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            if lines.map_while(Result::ok).any(|line| line.contains("the crowd is there")) {
                let _ = told.send(());
            }
        });
        Self { process, arrived: Some(arrived) }
    }

    /// Waits until all of it have come.
    pub(crate) async fn arrived(&mut self) {
        in_time(self.arrived.take().unwrap()).await.expect("the crowd comes");
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A port that accepts, and hangs up: the crowd's own ends are all the files it may have.
fn elsewhere() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    address
}

/// What the process runs.
#[test]
#[ignore = "what the other tests start"]
fn is_a_crowd() {
    let of = |name: &str| std::env::var(name);
    let (Ok(kind), Ok(count), Ok(hub)) = (of("CROWD_KIND"), of("CROWD_COUNT"), of("CROWD_HUB")) else { return };
    // Its parent may have few files itself.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let kind = Kind::ALL.into_iter().chain([Kind::Elsewhere]).find(|own| format!("{own:?}") == kind).unwrap();
    let hub = if kind == Kind::Elsewhere { elsewhere().to_string() } else { hub };
    let (hub, tokens): (SocketAddr, _) = (hub.parse().unwrap(), of("CROWD_TOKENS").unwrap_or_default());
    let mut held = Vec::new();
    for token in tokens.split(' ').cycle().take(count.parse().unwrap()) {
        let mut stream = TcpStream::connect(hub).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
        // It may be hung up on, which is what the hub is for.
        let _ = kind.act(&mut stream, token);
        held.push(stream);
    }
    println!("the crowd is there");
    // Until it is ended, or its parent is.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}
