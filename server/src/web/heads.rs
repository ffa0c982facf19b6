//! Requests' heads as they come: one at a time, in time, and with the line ends that the standard has.
//!
//! The HTTP library gets the bytes of one head and no more, until the service that is called with it says what comes
//! after it: a body of so many bytes, the next head, or something that is no HTTP. So it is known here, below the library,
//! what a socket is at: that it is idle, for how long a head has been coming, and what in a head the library reads in one
//! way and a proxy before the hub may read in another: a line that ends in a bare LF, which the library takes for a line
//! end, and a body whose length is given in two ways (RFC 9112, section 6.3), of which the library forgets one.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    task::Context,
};

use futures_util::task::AtomicWaker;

/// What hyper answers with 400: no head may have such a byte.
const REFUSED: &[u8] = b"\0\r\n\r\n";

/// What comes on a socket now.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    /// A head.
    Head(Head),
    /// A head is complete, and what it said is not known yet.
    Between,
    /// So many bytes of a body.
    Body(u64),
    /// No head any more: a body of unknown length, after which the socket is closed, or another protocol.
    Rest,
    /// What stands in place of a head that is refused.
    Refused(&'static [u8]),
}

/// How far a head has come.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Head {
    /// Something other than line ends has come.
    pub(super) begun: bool,
    last: u8,
    /// Bytes of the line that is coming, without its end, but for "none or some".
    line: bool,
    /// Which of [`LENGTHS`] the line that is coming may begin with, a bit each, and how many bytes of them it has.
    may_be: u8,
    column: u8,
    /// Which of them were there, likewise.
    named: u8,
}

/// The headers that say how long a body is.
const LENGTHS: [&[u8]; 2] = [b"content-length", b"transfer-encoding"];
/// All of them, a bit each.
const BOTH: u8 = 0b11;

/// What a piece of a head came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Scan {
    /// All of it belongs to a head that goes on.
    More,
    /// The head ends with so many bytes of it.
    End(usize),
    /// After so many bytes a line ends in a bare LF.
    Bare(usize),
    /// After so many bytes the length of the body is given in a second way.
    Both(usize),
}

impl Head {
    pub(super) fn scan(&mut self, bytes: &[u8]) -> Scan {
        for (at, &byte) in bytes.iter().enumerate() {
            match byte {
                b'\n' if self.last != b'\r' => return Scan::Bare(at),
                b'\n' if !self.line && self.begun => return Scan::End(at + 1),
                b'\n' => {
                    self.line = false;
                    // Headers come behind the first line.
                    self.may_be = if self.begun { BOTH } else { 0 };
                    self.column = 0;
                }
                b'\r' => {}
                _ => {
                    self.begun = true;
                    self.line = true;
                    if self.may_be != 0 && self.names(byte) {
                        return Scan::Both(at);
                    }
                }
            }
            self.last = byte;
        }
        Scan::More
    }

    /// Takes one more byte of a line that may begin with one of [`LENGTHS`]; whether both have been named.
    fn names(&mut self, byte: u8) -> bool {
        for (bit, name) in LENGTHS.iter().enumerate() {
            let bit = 1_u8 << bit;
            match name.get(usize::from(self.column)) {
                _ if self.may_be & bit == 0 => {}
                Some(own) if own.eq_ignore_ascii_case(&byte) => {}
                // A space before the colon the library refuses.
                None if byte == b':' => {
                    self.may_be = 0;
                    self.named |= bit;
                }
                _ => self.may_be &= !bit,
            }
        }
        // No longer than the longest of them: whatever is longer is none of them.
        self.column += 1;
        self.named == BOTH
    }
}

/// What comes next, as the socket and the service of a connection agree on it.
#[derive(Debug)]
pub(super) struct Exchange {
    state: Mutex<State>,
    /// The task that reads: its clock begins to run when the answer has been given.
    reader: AtomicWaker,
}

#[derive(Debug, Clone, Copy)]
struct State {
    part: Part,
    /// A request is being answered.
    answering: bool,
}

impl Exchange {
    pub(super) fn new() -> Self {
        let state = Mutex::new(State { part: Part::Head(Head::default()), answering: false });
        Self { state, reader: AtomicWaker::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn part(&self) -> Part {
        self.state().part
    }

    pub(super) fn set(&self, part: Part) {
        self.state().part = part;
    }

    /// A request has begun: its body has so many bytes, or nobody knows how many. `upgrades`: it may be the last one.
    pub(super) fn begin(&self, body: Option<u64>, upgrades: bool) {
        let part = match body {
            None => Part::Rest,
            Some(0) if upgrades => Part::Between,
            Some(0) => Part::Head(Head::default()),
            Some(bytes) => Part::Body(bytes),
        };
        *self.state() = State { part, answering: true };
    }

    /// Its answer is known: the socket speaks another protocol now, or it does not.
    pub(super) fn answered(&self, upgraded: bool) {
        let mut state = self.state();
        if upgraded {
            state.part = Part::Rest;
        } else if matches!(state.part, Part::Between) {
            state.part = Part::Head(Head::default());
        }
    }

    /// Its answer has been given.
    pub(super) fn over(&self) {
        self.state().answering = false;
        self.reader.wake();
    }

    /// Whether a request is being answered; if so, the task is woken when that is over.
    pub(super) fn poll_answering(&self, cx: &mut Context<'_>) -> bool {
        self.reader.register(cx.waker());
        self.state().answering
    }
}

impl Part {
    pub(super) const fn refused() -> Self {
        Self::Refused(REFUSED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(text: &str) -> Scan {
        let whole = Head::default().scan(text.as_bytes());
        // The same, byte by byte.
        let mut head = Head::default();
        let single = (0..text.len()).find_map(|at| match head.scan(&text.as_bytes()[at..=at]) {
            Scan::More => None,
            Scan::End(n) => Some(Scan::End(at + n)),
            Scan::Bare(n) => Some(Scan::Bare(at + n)),
            Scan::Both(n) => Some(Scan::Both(at + n)),
        });
        assert_eq!(whole, single.unwrap_or(Scan::More), "{text:?}");
        whole
    }

    #[test]
    fn a_head_ends_at_its_blank_line_and_a_bare_lf_is_found() {
        assert_eq!(scan("GET / HTTP/1.1\r\nHost: a\r\n\r\nrest"), Scan::End(27));
        assert_eq!(scan("\r\n\r\nGET / HTTP/1.1\r\n\r\n"), Scan::End(22), "blank lines before it are none of it");
        for part in ["", "\r\n", "GET / HTTP/1.1", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r"] {
            assert_eq!(scan(part), Scan::More, "{part:?}");
        }
        assert_eq!(scan("GET / HTTP/1.1\nHost: a\n\n"), Scan::Bare(14));
        assert_eq!(scan("GET / HTTP/1.1\r\nHost: a\n\r\n"), Scan::Bare(23));
        assert_eq!(scan("GET / HTTP/1.1\r\nHost: a\r\n\n"), Scan::Bare(25));
        assert_eq!(scan("\nGET"), Scan::Bare(0));
    }

    #[test]
    fn a_body_whose_length_is_given_in_two_ways_is_found() {
        let head = |lines: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n");
        let both = |lines: &str| {
            let text = head(lines);
            let Scan::Both(at) = scan(&text) else { panic!("{lines:?}: {:?}", scan(&text)) };
            // At the colon of the second.
            assert_eq!(text.as_bytes()[at], b':', "{lines:?}");
        };
        both("Content-Length: 1\r\nTransfer-Encoding: chunked");
        both("transfer-encoding:chunked\r\nX: y\r\nCONTENT-LENGTH:1");
        both("Transfer-Encoding: identity\r\nContent-Length: 1");
        for lines in [
            "Content-Length: 1",
            "Transfer-Encoding: chunked",
            "Content-Length: 1\r\nContent-Length: 1",
            "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
            "Content-Length: 1\r\nX-Transfer-Encoding: chunked\r\nTransfer-Encodings: a\r\nTransfer-Encodin: b\r\nTransfer",
            "Content-Length: 1\r\nX: Transfer-Encoding: chunked",
        ] {
            let text = head(lines);
            assert_eq!(scan(&text), Scan::End(text.len()), "{lines:?}");
        }
        let first = "Transfer-Encoding: HTTP/1.1\r\nContent-Length: 1\r\n\r\n";
        assert_eq!(scan(first), Scan::End(first.len()), "the first line is no header");
        let next = format!("Content-Length: 1\r\n\r\n{}", head("Transfer-Encoding: chunked"));
        assert_eq!(scan(&format!("GET / HTTP/1.1\r\n{next}")), Scan::End(37), "of another head");
    }
}
