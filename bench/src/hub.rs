//! Version and store of the hub that is measured: `GET /healthz` of its ops port.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::Target;

/// How long the hub may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Most bytes read of the answer; a hub sends far fewer.
const ANSWER: usize = 64 * 1024;
const UNKNOWN: &str = "unknown";

/// Which hub was measured. A text that its answer does not hold is `unknown`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubInfo {
    /// Version of the hub, for instance `0.1.0`.
    #[serde(default = "unknown")]
    pub version: String,
    /// Its process id, when it runs on this machine.
    #[serde(default)]
    pub pid: Option<u32>,
    /// Its store, for instance `embedded`.
    #[serde(default = "unknown")]
    pub store: String,
    /// What "committed" means in that store, in its own words.
    #[serde(default = "unknown")]
    pub durability: String,
    /// The address its WebSocket listens on.
    #[serde(default, skip_serializing)]
    pub ws: Option<String>,
}

fn unknown() -> String {
    UNKNOWN.into()
}

impl HubInfo {
    /// A hub of which nothing but, perhaps, its process is known.
    pub fn unknown(pid: Option<u32>) -> Self {
        Self { version: unknown(), pid, store: unknown(), durability: unknown(), ws: None }
    }

    /// Asks the ops port on this machine. `None` when nobody answers there, or a hub other than `target` does.
    pub fn ask(ops_port: u16, target: &Target) -> Option<Self> {
        let body = healthz(ops_port).ok()?;
        let info: Self = serde_json::from_str(&body).ok()?;
        let port = info.ws.as_ref().and_then(|ws| ws.rsplit(':').next()?.parse().ok());
        // Another hub of this machine may have that ops port.
        (port.is_none() || port == target.port()).then_some(info)
    }
}

/// The JSON object of the answer, if its status is 200.
fn healthz(port: u16) -> io::Result<String> {
    let until = Instant::now() + PATIENCE;
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), PATIENCE)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = format!("GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || answer.len() > ANSWER {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut chunk)? {
            0 => break,
            got => answer.extend_from_slice(&chunk[..got]),
        }
    }
    let text = String::from_utf8_lossy(&answer);
    match text.split_once("\r\n\r\n") {
        // A body in chunks still has the whole object between its braces.
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => match (body.find('{'), body.rfind('}')) {
            (Some(start), Some(end)) if start < end => Ok(body[start..=end].to_owned()),
            _ => Err(io::ErrorKind::InvalidData.into()),
        },
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    fn asked(answer: &'static str, url: &str) -> Option<HubInfo> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let got = stream.read(&mut request).unwrap();
            assert!(request[..got].starts_with(b"GET /healthz HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let info = HubInfo::ask(port, &Target::new(url, "t"));
        server.join().unwrap();
        info
    }

    const HEALTHY: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{\"status\":\"ok\",\"version\":\"0.1.0\",\
        \"pid\":123,\"store\":\"embedded\",\"durability\":\"commit: x\",\"ws\":\"127.0.0.1:8090\",\"uptimeMs\":5}";

    #[test]
    fn a_hub_tells_what_it_is() {
        let info = asked(HEALTHY, "ws://127.0.0.1:8090/ws").unwrap();
        assert_eq!((info.version.as_str(), info.pid, info.store.as_str()), ("0.1.0", Some(123), "embedded"));
        assert_eq!(info.durability, "commit: x");
    }

    #[test]
    fn another_hub_and_nonsense_are_not_believed() {
        assert_eq!(asked(HEALTHY, "ws://127.0.0.1:9000/ws"), None);
        assert_eq!(asked("HTTP/1.1 404 Not Found\r\n\r\n{}", "ws://127.0.0.1:8090"), None);
        assert_eq!(asked("nonsense", "ws://127.0.0.1:8090"), None);
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        assert_eq!(HubInfo::ask(free, &Target::new("ws://127.0.0.1:8090", "t")), None);
    }
}
