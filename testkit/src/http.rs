//! HTTP as it is on the wire, so that tests see what a client would: status, headers, and whether the answer ended.

use std::net::SocketAddr;

use prom_hub::Hub;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::wait::DEADLINE;

/// An answer as it came.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    head: String,
    /// The body; chunks are put together.
    pub body: Vec<u8>,
    /// The answer ended as it said it would; `false`: the connection broke.
    pub whole: bool,
}

impl Answer {
    /// The value of a header, whatever the case of its name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find_map(|(own, value)| own.eq_ignore_ascii_case(name).then_some(value.trim()))
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// Checks status and message of a refusal.
    pub fn refused(&self, status: u16, message: &str) {
        assert_eq!(self.status, status, "{self:?}");
        let error = self.json()["error"].as_str().unwrap_or_default().to_owned();
        assert!(error.contains(message), "{error:?} does not say {message:?}");
    }
}

/// Sends these bytes and reads the answer until the server hangs up.
pub async fn raw(address: SocketAddr, request: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    // A server may refuse before it has read everything.
    let _ = stream.write_all(request).await;
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes);
    let _ = tokio::time::timeout(DEADLINE, read).await.expect("an answer in time");
    parse(&bytes)
}

/// Reads an answer from the bytes of a connection that ended.
pub fn parse(bytes: &[u8]) -> Answer {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("headers");
    let head = String::from_utf8(bytes[..end].to_vec()).expect("UTF-8");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let mut answer = Answer { status, head, body: bytes[end + 4..].to_vec(), whole: true };
    if answer.header("transfer-encoding").is_some() {
        (answer.body, answer.whole) = chunks(&answer.body);
    } else if let Some(length) = answer.header("content-length") {
        answer.whole = answer.body.len() == length.parse::<usize>().expect("a length");
    }
    answer
}

fn chunks(mut bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    while let Some(at) = bytes.windows(2).position(|window| window == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..at]).unwrap(), 16).expect("a chunk's size");
        if size == 0 {
            return (body, true);
        }
        let chunk = &bytes[at + 2..];
        body.extend_from_slice(&chunk[..size.min(chunk.len())]);
        if chunk.len() < size + 2 {
            break;
        }
        bytes = &chunk[size + 2..];
    }
    (body, false)
}

/// The bytes of a request that is the only one on its connection.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        request.push_str("Host: localhost\r\n");
    }
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        request.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    request.push_str("\r\n");
    let mut request = request.into_bytes();
    request.extend_from_slice(body);
    request
}

/// GET on the ops port.
pub async fn ops(hub: &Hub, path: &str) -> Answer {
    raw(hub.ops_address().expect("an ops port"), &request("GET", path, &[], b"")).await
}

/// GET on the ops port, with a token.
pub async fn ops_as(hub: &Hub, path: &str, token: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    let request = request("GET", path, &[("Authorization", &bearer)], b"");
    raw(hub.ops_address().expect("an ops port"), &request).await
}

/// GET on the public port, with a token.
pub async fn get(hub: &Hub, path: &str, token: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    raw(hub.address(), &request("GET", path, &[("Authorization", &bearer)], b"")).await
}

/// POST on the public port, with a token.
pub async fn post(hub: &Hub, path: &str, token: &str, body: &[u8]) -> Answer {
    let bearer = format!("Bearer {token}");
    raw(hub.address(), &request("POST", path, &[("Authorization", &bearer)], body)).await
}
