//! Frames that RFC 6455 does not have, byte by byte: what the hub answers before it hangs up. The cases are those of the
//! Autobahn test suite, as far as they need no echo.

use std::net::SocketAddr;

use prom_hub::{Config, Hub};
use prom_testkit::{Client, config, hub, in_time};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const FIN: u8 = 0x80;
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const CLOSE: u8 = 8;
const PING: u8 = 9;

/// A client's frame, masked with zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = payload.len();
    let mut frame = vec![first];
    if length < 126 {
        frame.push(0x80 | length as u8);
    } else {
        frame.push(0x80 | 126);
        frame.extend_from_slice(&(length as u16).to_be_bytes());
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(FIN | CLOSE, &[&code.to_be_bytes(), reason].concat())
}

/// A new WebSocket.
async fn websocket(address: SocketAddr) -> TcpStream {
    websocket_with(address, "").await
}

/// One that is asked for with more headers.
async fn websocket_with(address: SocketAddr, more: &str) -> TcpStream {
    let mut stream = in_time(TcpStream::connect(address)).await.unwrap();
    let headers = "Host: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";
    let ask = format!("GET /ws HTTP/1.1\r\n{headers}Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{more}\r\n");
    stream.write_all(ask.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(in_time(stream.read_u8()).await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    stream
}

/// The code in a frame that is a close frame; 0: it has none.
fn close_code(frame: &[u8]) -> Option<u16> {
    match frame {
        [0x88, 0] => Some(0),
        [0x88, length, high, low, reason @ ..] if usize::from(*length) == reason.len() + 2 => {
            Some(u16::from_be_bytes([*high, *low]))
        }
        _ => None,
    }
}

async fn refused(hub: &Hub, what: &str, bytes: &[u8], code: u16) {
    let mut stream = websocket(hub.address()).await;
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // It may be reset behind the frame that matters.
    let _ = in_time(stream.read_to_end(&mut answer)).await;
    assert_eq!(close_code(&answer), Some(code), "{what}: {answer:02x?}");
}

/// The connection was cut off without a word, and who wrote the client had to guess.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_frame_is_closed_with_1002() {
    let hub = hub().await;
    for bit in [0x40, 0x20, 0x10] {
        refused(&hub, "a reserved bit", &frame(FIN | bit | TEXT, b"{}"), 1002).await;
        refused(&hub, "a reserved bit of a ping", &frame(FIN | bit | PING, b""), 1002).await;
    }
    for opcode in (3..8).chain(11..16) {
        refused(&hub, "an unknown opcode", &frame(FIN | opcode, b"x"), 1002).await;
    }
    refused(&hub, "a ping in parts", &frame(PING, b"x"), 1002).await;
    refused(&hub, "a close frame in parts", &frame(CLOSE, &1000_u16.to_be_bytes()), 1002).await;
    refused(&hub, "a long ping", &frame(FIN | PING, &[b'x'; 126]), 1002).await;
    refused(&hub, "an end without a beginning", &frame(FIN | CONTINUATION, b"x"), 1002).await;
    refused(&hub, "a middle without a beginning", &frame(CONTINUATION, b"x"), 1002).await;
    let twice = [frame(TEXT, b"{"), frame(FIN | TEXT, b"}")].concat();
    refused(&hub, "a message within a message", &twice, 1002).await;
    refused(&hub, "a frame that is not masked", &[0x81, 2, b'{', b'}'], 1002).await;
    hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_is_none_is_closed_with_1007() {
    let hub = hub().await;
    let texts: [(&str, &[u8]); 7] = [
        ("a lone byte", b"\"\xff\""),
        ("a character cut short", b"\"\xce\xba\xe1\xbd"),
        ("a character written too long", b"\xc0\xaf"),
        ("half a surrogate pair", b"\xed\xa0\x80"),
        ("beyond the last character", b"\xf4\x90\x80\x80"),
        ("a middle byte", b"\x80"),
        ("five bytes", b"\xf8\x88\x80\x80\x80"),
    ];
    for (what, text) in texts {
        refused(&hub, what, &frame(FIN | TEXT, text), 1007).await;
        let parts = [frame(TEXT, text), frame(FIN | CONTINUATION, b"")].concat();
        refused(&hub, what, &parts, 1007).await;
    }
    refused(&hub, "a reason that is no text", &close(1000, b"\xff"), 1007).await;
    hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_close_frame_is_answered_with_its_code_or_1002() {
    let hub = hub().await;
    refused(&hub, "nothing", &frame(FIN | CLOSE, b""), 0).await;
    refused(&hub, "half a code", &frame(FIN | CLOSE, b"\x03"), 1002).await;
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999] {
        refused(&hub, "a code", &close(code, b"why"), code).await;
    }
    for code in [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, u16::MAX] {
        refused(&hub, &format!("the code {code}"), &close(code, b""), 1002).await;
    }
    hub.shutdown().await;
}

#[tokio::test]
async fn a_message_in_parts_with_pings_between_them_is_one_message() {
    let hub = hub().await;
    let bytes = [
        frame(TEXT, b"{\"op\":\"PING\",\"corr\":\"\xc3"),
        frame(FIN | PING, b"now"),
        frame(CONTINUATION, b""),
        frame(FIN | CONTINUATION, b"\xbc\"}"),
    ];
    let mut stream = websocket(hub.address()).await;
    stream.write_all(&bytes.concat()).await.unwrap();
    let (pong, text) = (b"\x8a\x03now", r#"{"op":"PONG","corr":"ü"}"#);
    let mut answer = vec![0; pong.len() + 2 + text.len()];
    in_time(stream.read_exact(&mut answer)).await.unwrap();
    let expected = [&pong[..], &[FIN | TEXT, text.len() as u8], text.as_bytes()].concat();
    assert_eq!(answer, expected, "{}", String::from_utf8_lossy(&answer));
    // Nobody else notices any of it.
    let mut client = Client::open(&hub).await;
    client.publish("a", json!(1)).await;
    hub.shutdown().await;
}

#[tokio::test]
async fn who_is_closed_while_it_still_sends_is_told_why() {
    // The socket was closed with unread bytes in it, which resets it: on most systems the peer loses what it did not read yet.
    let hub = Hub::start(Config { origins: Some(Vec::new()), ..config() }).await.unwrap();
    let flood = frame(FIN | PING, b"").repeat(100);
    let large = frame(FIN | TEXT, &[b' '; 20_000]);
    let reserved = frame(FIN | 0x40 | TEXT, b"{}");
    let not_text = frame(FIN | TEXT, b"\xFF\xFF");
    let ping = frame(FIN | PING, b"");
    let foreign = "Origin: https://elsewhere.example\r\n";
    let cases =
        [(4408, "", flood), (1009, "", large), (1002, "", reserved), (1007, "", not_text), (4403, foreign, ping)];
    for (code, headers, wrong) in cases {
        let mut told = 0;
        for _ in 0..10 {
            let mut stream = websocket_with(hub.address(), headers).await;
            stream.write_all(&[wrong.clone(), vec![0; 500_000]].concat()).await.unwrap();
            let mut answer = Vec::new();
            let ended = in_time(stream.read_to_end(&mut answer)).await;
            let at = answer.windows(4).position(|four| four[0] == 0x88 && four[2..] == u16::to_be_bytes(code));
            told += usize::from(at.is_some() && ended.is_ok());
        }
        assert_eq!(told, 10, "{code}");
    }
    hub.shutdown().await;
}
