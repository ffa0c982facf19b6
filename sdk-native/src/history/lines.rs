//! The lines of a body that comes in pieces.

use prom_protocol::ErrorCode;

use crate::{Error, http::Answer};

/// Longest line: an event of 1 MiB and its envelope, with room to spare.
const LINE_BYTES: usize = 4 * 1024 * 1024;

/// Takes a body apart into lines. Holds one line, or one piece of the body, whichever is longer.
pub(super) struct Lines {
    body: Answer,
    bytes: Vec<u8>,
    /// Up to here they were given out.
    taken: usize,
    /// Up to here there is no end of the next line.
    searched: usize,
}

impl Lines {
    pub(super) fn new(body: Answer) -> Self {
        Self { body, bytes: Vec::new(), taken: 0, searched: 0 }
    }

    /// The next whole line, without its end; none at the end of the body.
    pub(super) async fn next(&mut self) -> Result<Option<&[u8]>, Error> {
        let line = loop {
            if let Some(line) = self.find()? {
                break line;
            }
            match self.body.piece().await? {
                Some(piece) => self.bytes.extend_from_slice(&piece),
                None if self.taken == self.bytes.len() => return Ok(None),
                None => return Err(Error::lost("the answer was cut in the middle of an event")),
            }
        };
        Ok(Some(&self.bytes[line]))
    }

    fn find(&mut self) -> Result<Option<std::ops::Range<usize>>, Error> {
        if let Some(at) = memchr::memchr(b'\n', &self.bytes[self.searched..]) {
            let line = self.taken..self.searched + at;
            (self.taken, self.searched) = (line.end + 1, line.end + 1);
            return Ok(Some(line));
        }
        self.bytes.drain(..self.taken);
        (self.taken, self.searched) = (0, self.bytes.len());
        if self.searched > LINE_BYTES {
            return Err(Error::of(ErrorCode::TooLarge, format!("a line is longer than {LINE_BYTES} bytes")));
        }
        Ok(None)
    }
}
