//! WebSocket frames, as cheap as they get: many are built in one buffer and leave in one write, and what comes is looked
//! at where it was read.

/// FIN and the opcode of a text frame.
const TEXT: u8 = 0x81;
/// FIN and the opcode of a pong.
const PONG: u8 = 0x8a;
/// The bit that says a mask follows.
const MASKED: u8 = 0x80;
/// RFC 6455 has clients mask what they send, against proxies that take a payload for a request of their own. There is
/// none here; under a mask of zeros a payload stands for itself, while the hub does all its work of unmasking.
const MASK: [u8; 4] = [0; 4];

/// A frame as it was read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    /// A whole text message.
    Text(&'a [u8]),
    /// A ping; it must be answered with a pong of the same payload.
    Ping(&'a [u8]),
    /// A close frame: its code and its reason.
    Close(u16, &'a [u8]),
    /// A pong; nothing is to be done for it.
    Pong,
}

/// Bytes that no hub sends; the text says what is wrong with them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotAFrame(pub(crate) &'static str);

/// Appends a text frame whose payload is these parts.
pub(crate) fn text(out: &mut Vec<u8>, parts: &[&[u8]]) {
    head(out, TEXT, parts.iter().map(|part| part.len()).sum());
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// Appends a text frame as a hub sends it.
pub(crate) fn unmasked(out: &mut Vec<u8>, payload: &[u8]) {
    let at = out.len();
    head(out, TEXT, payload.len());
    out.truncate(out.len() - MASK.len());
    out[at + 1] &= !MASKED;
    out.extend_from_slice(payload);
}

/// Puts the texts of the frames behind `from`, which were built here, into as few frames as the protocol wants: a text a
/// line, up to 64 KiB.
pub(crate) fn join(out: &mut Vec<u8>, from: usize) {
    const MESSAGE_BYTES: usize = 64 * 1024;
    let tail = out.split_off(from);
    let mut message: Vec<u8> = Vec::new();
    let mut at = 0;
    while let Some((first, payload, end)) = own(&tail[at..]) {
        let full = message.len() + 1 + payload.len() > MESSAGE_BYTES;
        if !message.is_empty() && (full || first != TEXT) {
            text(out, &[&message]);
            message.clear();
        }
        if first == TEXT {
            if !message.is_empty() {
                message.push(b'\n');
            }
            message.extend_from_slice(payload);
        } else {
            out.extend_from_slice(&tail[at..at + end]);
        }
        at += end;
    }
    if !message.is_empty() {
        text(out, &[&message]);
    }
}

/// The first of the frames that were built here: its first byte, its payload and its length.
fn own(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let [first, second, rest @ ..] = bytes else { return None };
    let (start, len) = match (second & !MASKED, rest) {
        (126, [a, b, ..]) => (4, usize::from(u16::from_be_bytes([*a, *b]))),
        (127, [a, b, c, d, e, f, g, h, ..]) => (10, u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]) as usize),
        (len, _) => (2, usize::from(len)),
    };
    let start = start + MASK.len();
    Some((*first, bytes.get(start..start + len)?, start + len))
}

/// Appends the answer to a ping.
pub(crate) fn pong(out: &mut Vec<u8>, payload: &[u8]) {
    head(out, PONG, payload.len());
    out.extend_from_slice(payload);
}

fn head(out: &mut Vec<u8>, first: u8, len: usize) {
    out.push(first);
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len @ 0..=125), _) => out.push(MASKED | len),
        (_, Ok(len)) => {
            out.push(MASKED | 126);
            out.extend_from_slice(&len.to_be_bytes());
        }
        _ => {
            out.push(MASKED | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
}

/// The first frame of `bytes` and its length; `None` when it is not whole.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>, NotAFrame> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    if second & MASKED != 0 {
        return Err(NotAFrame("a masked frame"));
    }
    let (start, len) = match (second, rest) {
        (126, [a, b, ..]) => (4, u64::from(u16::from_be_bytes([*a, *b]))),
        (127, [a, b, c, d, e, f, g, h, ..]) => (10, u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h])),
        (126 | 127, _) => return Ok(None),
        (len, _) => (2, u64::from(*len)),
    };
    if len > prom_protocol::limits::FRAME_BYTES as u64 * 4 {
        return Err(NotAFrame("a frame larger than any event"));
    }
    let end = start + len as usize;
    let Some(payload) = bytes.get(start..end) else { return Ok(None) };
    let frame = match first {
        0x81 => Frame::Text(payload),
        0x88 => match payload {
            [a, b, reason @ ..] => Frame::Close(u16::from_be_bytes([*a, *b]), reason),
            _ => Frame::Close(1005, b""),
        },
        0x89 => Frame::Ping(payload),
        0x8a => Frame::Pong,
        0x01 | 0x00 | 0x80 => return Err(NotAFrame("a message in pieces")),
        _ => return Err(NotAFrame("a frame that is no text")),
    };
    Ok(Some((frame, end)))
}

#[cfg(test)]
mod tests {
    use tungstenite::protocol::{Role, WebSocket};

    use super::*;

    /// What tungstenite, in the role of the hub, reads of these bytes.
    fn read_by_a_hub(bytes: Vec<u8>) -> Vec<String> {
        let mut socket = WebSocket::from_raw_socket(std::io::Cursor::new(bytes), Role::Server, None);
        let mut texts = Vec::new();
        while let Ok(message) = socket.read() {
            texts.push(message.into_text().unwrap().as_str().to_owned());
        }
        texts
    }

    #[test]
    fn a_hub_reads_what_is_written() {
        let mut out = Vec::new();
        let texts: Vec<String> = [0, 1, 125, 126, 65_535, 65_536].iter().map(|len| "x".repeat(*len)).collect();
        for each in &texts {
            text(&mut out, &[&each.as_bytes()[..each.len() / 2], &each.as_bytes()[each.len() / 2..]]);
        }
        assert_eq!(read_by_a_hub(out), texts);
    }

    #[test]
    fn frames_that_are_joined_are_lines_of_one() {
        let mut out = b"kept".to_vec();
        let large = "z".repeat(70_000);
        for each in ["a", "bc", &large, "d", &"e".repeat(200)] {
            text(&mut out, &[each.as_bytes()]);
        }
        pong(&mut out, b"p");
        text(&mut out, &[b"f"]);
        join(&mut out, 4);
        assert_eq!(&out[..4], b"kept");
        let expected = ["a\nbc".to_owned(), large, format!("d\n{}", "e".repeat(200))];
        let read = read_by_a_hub(out.split_off(4));
        assert_eq!(read[..3], expected);
        assert_eq!((read.len(), read[4].as_str()), (5, "f"), "the pong is between them");
        let mut many = Vec::new();
        (0..5_000).for_each(|_| text(&mut many, &[&[b'x'; 99]]));
        join(&mut many, 0);
        assert!(read_by_a_hub(many).iter().all(|message| message.len() <= 64 * 1024));
    }

    #[test]
    fn what_is_built_as_a_hub_sends_it_is_read_as_that() {
        let mut out = Vec::new();
        unmasked(&mut out, &[b'y'; 300]);
        assert_eq!(parse(&out), Ok(Some((Frame::Text(&[b'y'; 300]), out.len()))));
    }

    #[test]
    fn frames_are_read_once_they_are_whole() {
        for len in [0, 1, 125, 126, 65_535, 65_536] {
            let text = "y".repeat(len);
            let mut socket = WebSocket::from_raw_socket(std::io::Cursor::new(Vec::new()), Role::Server, None);
            socket.send(text.as_str().into()).unwrap();
            let bytes = socket.get_ref().get_ref().clone();
            for cut in [0, 1, 2, 3, 9, bytes.len() - 1] {
                assert_eq!(parse(&bytes[..cut.min(bytes.len() - 1)]), Ok(None));
            }
            let more = [&bytes[..], b"\x81"].concat();
            assert_eq!(parse(&more), Ok(Some((Frame::Text(text.as_bytes()), bytes.len()))));
        }
    }

    #[test]
    fn control_frames_and_nonsense() {
        assert_eq!(parse(b"\x89\x01p"), Ok(Some((Frame::Ping(b"p"), 3))));
        assert_eq!(parse(b"\x8a\x00"), Ok(Some((Frame::Pong, 2))));
        assert_eq!(parse(b"\x88\x04\x03\xe9by"), Ok(Some((Frame::Close(1001, b"by"), 6))));
        assert_eq!(parse(b"\x88\x00"), Ok(Some((Frame::Close(1005, b""), 2))));
        for bytes in [&b"\x81\x81"[..], b"\x82\x00", b"\x01\x00", b"\x81\x7f\xff\xff\xff\xff\xff\xff\xff\xff"] {
            assert!(parse(bytes).is_err(), "{bytes:?}");
        }
    }
}
