//! `--self`: a hub that the bench starts in a folder of its own and ends with itself.

use std::{
    fs::{self, File},
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::Error;

/// How long a hub may take to come up.
const START: Duration = Duration::from_secs(30);
/// How long to wait after that for its ops port; older hubs have none.
const OPS: Duration = Duration::from_millis(500);
/// Variables of the environment that are meant for another hub and are not passed on.
const FOREIGN: [&str; 19] = [
    "WS_TOKEN",
    "WS_TOKEN_FILE",
    "OPS_TOKEN",
    "OPS_TOKEN_FILE",
    "JWT_SECRET_FILE",
    "JWT_SECRET_PREVIOUS",
    "JWT_SECRET_PREVIOUS_FILE",
    "JWT_AUD",
    "JWT_ISS",
    "JWT_JWKS_URL",
    "JWT_MAX_LIFETIME",
    "MONGO_URL",
    "PROM_OUTBOX",
    "BIND",
    "PROM_ORIGINS",
    "PROM_URL",
    "PROM_TOKEN",
    "PROM_LOG",
    "RUST_LOG",
];

/// How to start the hub.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Path of the `prom` binary.
    pub exe: PathBuf,
    /// The secret its tokens are signed with.
    pub secret: String,
    /// `PROM_DURABILITY`; default: what the environment says, or the hub's own.
    pub durability: Option<String>,
    /// `MONGO_URL`; default: it has its store in its folder.
    pub mongo_url: Option<String>,
    /// `PROM_OUTBOX`; default: the hub's own.
    pub outbox: Option<String>,
}

/// A hub of the bench's own. Dropping it ends its process and removes its folder.
#[derive(Debug)]
pub struct OwnHub {
    child: Child,
    folder: PathBuf,
    ws_port: u16,
    ops_port: u16,
    started: Instant,
    up: Option<Instant>,
}

impl OwnHub {
    /// Starts one. It is not [ready](OwnHub::is_ready) yet.
    ///
    /// # Errors
    /// [`Error::System`] when a folder, a port or the process cannot be had.
    pub fn spawn(launch: &Launch) -> Result<Self, Error> {
        let failed = |what| move |error| Error::System(what, error);
        let (ws_port, ops_port) = free_ports().map_err(failed("there is no free port"))?;
        let folder = std::env::temp_dir().join(format!("prom-bench-{:016x}", fastrand::u64(..)));
        make_private(&folder).map_err(failed("cannot make a temporary folder"))?;
        let child = File::create(folder.join("log")).and_then(|log| {
            let mut command = Command::new(&launch.exe);
            for name in FOREIGN {
                command.env_remove(name);
            }
            command
                .arg("hub")
                .env("WS_PORT", ws_port.to_string())
                .env("OPS_PORT", ops_port.to_string())
                .env("JWT_SECRET", &launch.secret)
                .env("PROM_DATA", folder.join("data"))
                .envs(launch.durability.iter().map(|durability| ("PROM_DURABILITY", durability)))
                .envs(launch.mongo_url.iter().map(|url| ("MONGO_URL", url)))
                .envs(launch.outbox.iter().map(|outbox| ("PROM_OUTBOX", outbox)))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
        });
        match child {
            Ok(child) => Ok(Self { child, folder, ws_port, ops_port, started: Instant::now(), up: None }),
            Err(error) => {
                // The process never ran: the folder holds nothing but an empty log.
                let _ = fs::remove_dir_all(&folder);
                Err(Error::System("cannot start a hub", error))
            }
        }
    }

    /// Whether the hub takes connections and, if it has one, its ops port answers. Call it again until it does.
    ///
    /// # Errors
    /// [`Error::Start`] when the process has ended, with the last lines of its log, or has taken longer than 30 s.
    pub fn is_ready(&mut self) -> Result<bool, Error> {
        if let Ok(Some(status)) = self.child.try_wait() {
            return Err(Error::Start(format!("it ended with {status}\n{}", self.log())));
        }
        if self.up.is_none() && answers(self.ws_port) {
            self.up = Some(Instant::now());
        }
        match self.up {
            Some(since) => Ok(answers(self.ops_port) || since.elapsed() >= OPS),
            None if self.started.elapsed() >= START => {
                let seconds = START.as_secs();
                Err(Error::Start(format!("it took no connections within {seconds} s\n{}", self.log())))
            }
            None => Ok(false),
        }
    }

    /// The URL of its WebSocket.
    pub fn url(&self) -> String {
        format!("ws://127.0.0.1:{}/ws", self.ws_port)
    }

    /// Its ops port, if it has one.
    pub fn ops_port(&self) -> u16 {
        self.ops_port
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The end of what it logged.
    fn log(&self) -> String {
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}

impl Drop for OwnHub {
    fn drop(&mut self) {
        // It may have ended by itself. What it has is thrown away, so it need not tidy up.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            eprintln!("prom bench: cannot remove {}: {error}", self.folder.display());
        }
    }
}

fn answers(port: u16) -> bool {
    TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), Duration::from_secs(1)).is_ok()
}

/// Two ports nobody listens on, different because both are held before either is given up.
fn free_ports() -> io::Result<(u16, u16)> {
    let ports = (TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?);
    Ok((ports.0.local_addr()?.port(), ports.1.local_addr()?.port()))
}

fn make_private(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}
