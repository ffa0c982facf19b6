//! One direction of a connection, for a thread that waits for nothing else.

use std::{
    io::Read,
    net::TcpStream,
    time::{Duration, Instant},
};

use crate::{
    Error,
    connection::{Connection, closed, hung_up, malformed, refuse, would_block},
    frame::{self, Frame},
    scan::{self, Answer},
};

/// Blocks for what comes and hands on every whole text.
pub(crate) struct Reader<'a> {
    stream: &'a TcpStream,
    rest: Vec<u8>,
    chunk: Vec<u8>,
    stall: Duration,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(connection: &'a Connection, stall: Duration) -> Self {
        Self { stream: &connection.stream, rest: connection.rest.clone(), chunk: vec![0; 64 * 1024], stall }
    }

    /// Reads once and hands on every whole text.
    pub(crate) fn read(
        &mut self,
        state: impl Fn() -> String,
        mut take: impl FnMut(&Answer<'_>, Instant) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let got = match self.stream.read(&mut self.chunk) {
            Ok(0) => return Err(hung_up()),
            Ok(got) => got,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => 0,
            Err(error) if would_block(&error) => return Err(Error::Stalled { after: self.stall, state: state() }),
            Err(error) => return Err(Error::Broken(error)),
        };
        let now = Instant::now();
        self.rest.extend_from_slice(&self.chunk[..got]);
        let mut at = 0;
        while let Some((frame, len)) = frame::parse(&self.rest[at..]).map_err(|nonsense| refuse(&nonsense))? {
            match frame {
                Frame::Text(text) => take(&scan::answer(text).map_err(|_| malformed(text))?, now)?,
                Frame::Close(code, reason) => return Err(closed(code, reason)),
                // Both connections send often enough to count as alive without a pong.
                Frame::Ping(_) | Frame::Pong => {}
            }
            at += len;
        }
        self.rest.drain(..at);
        Ok(())
    }
}
