//! One thread drives all connections: it reads what has arrived, lets the scenario react, and writes all that the scenario
//! produced at once. It shares two cores with the hub it measures, so it does nothing else.

use std::{
    io::{Read, Write},
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, net::TcpStream};

use crate::{
    Error, Target,
    connection::{Connection, closed, hung_up, malformed, refuse, would_block},
    frame::{self, Frame},
    scan::{self, Answer},
};

/// Most bytes of one read.
const READ: usize = 256 * 1024;
/// A connection with this many unwritten bytes is not asked to produce more.
pub(crate) const WRITE: usize = 256 * 1024;

/// What is measured. Connections are numbered as they were given to the [`Drive`].
pub(crate) trait Scenario {
    /// Appends the next frames of a connection, up to about [`WRITE`] bytes. Returns whether there are more.
    fn produce(&mut self, link: usize, out: &mut Vec<u8>) -> bool;
    /// Takes an answer or an event of the hub, and appends the frames that follow from it.
    fn answer(&mut self, link: usize, answer: &Answer<'_>, out: &mut Vec<u8>) -> Result<(), Error>;
    /// Whether everything was sent and answered.
    fn is_done(&self) -> bool;
    /// How far the scenario has come, for the error that says it has stalled.
    fn state(&self) -> String;
}

struct Link {
    stream: TcpStream,
    /// The start of a frame whose end has not come.
    rest: Vec<u8>,
    out: Vec<u8>,
    written: usize,
    /// So much of `out` is as it leaves; behind it are frames to be joined, where that was agreed.
    joined: usize,
    readable: bool,
    writable: bool,
    /// The hub has closed its side: no more will come.
    ended: bool,
}

pub(crate) struct Drive {
    poll: Poll,
    events: Events,
    links: Vec<Link>,
    chunk: Vec<u8>,
    stall: Duration,
    batch: bool,
}

impl Drive {
    /// For connections to `target`.
    pub(crate) fn new(connections: Vec<Connection>, target: &Target) -> Result<Self, Error> {
        let (stall, batch) = (target.stall, target.batch);
        let failed = |error| Error::System("cannot wait for sockets", error);
        let poll = Poll::new().map_err(failed)?;
        let mut links = Vec::with_capacity(connections.len());
        for (number, Connection { stream, rest }) in connections.into_iter().enumerate() {
            stream.set_nonblocking(true).map_err(failed)?;
            let mut stream = TcpStream::from_std(stream);
            poll.registry()
                .register(&mut stream, Token(number), Interest::READABLE | Interest::WRITABLE)
                .map_err(failed)?;
            let out = Vec::with_capacity(WRITE + WRITE / 4);
            // Taken for ready until a call says otherwise: the poll reports nothing that happened before registration.
            links.push(Link { stream, rest, out, written: 0, joined: 0, readable: true, writable: true, ended: false });
        }
        Ok(Self { poll, events: Events::with_capacity(1024), links, chunk: vec![0; READ], stall, batch })
    }

    /// Runs until the scenario is done.
    pub(crate) fn run(&mut self, scenario: &mut impl Scenario) -> Result<(), Error> {
        let mut progress = Instant::now();
        loop {
            let (mut moved, mut again) = (false, false);
            for number in 0..self.links.len() {
                if self.links[number].readable {
                    moved |= self.read(number, scenario)?;
                    again |= self.links[number].readable;
                }
            }
            for (number, link) in self.links.iter_mut().enumerate() {
                let more = link.out.len() < WRITE && scenario.produce(number, &mut link.out);
                if self.batch {
                    frame::join(&mut link.out, link.joined);
                }
                link.joined = link.out.len();
                link.write()?;
                again |= more && link.writable;
            }
            if scenario.is_done() {
                return Ok(());
            }
            let now = Instant::now();
            if moved {
                progress = now;
            } else if now - progress >= self.stall {
                return Err(Error::Stalled { after: self.stall, state: scenario.state() });
            }
            let wait = if again { Duration::ZERO } else { (progress + self.stall).saturating_duration_since(now) };
            self.wait(wait)?;
        }
    }

    /// Waits until the hub has sent all it had to send by now, so that surplus events are noticed too.
    pub(crate) fn drain(&mut self, scenario: &mut impl Scenario) -> Result<(), Error> {
        let count = self.links.len();
        self.run(&mut Drain { inner: scenario, asked: vec![false; count], left: count })
    }

    /// The connections, in blocking mode again.
    pub(crate) fn into_connections(self) -> Result<Vec<Connection>, Error> {
        let Self { poll, links, .. } = self;
        let mut connections = Vec::with_capacity(links.len());
        for Link { mut stream, rest, .. } in links {
            let back = poll.registry().deregister(&mut stream).and_then(|()| {
                let stream = std::net::TcpStream::from(stream);
                stream.set_nonblocking(false).map(|()| stream)
            });
            let stream = back.map_err(|error| Error::System("cannot give a socket back", error))?;
            connections.push(Connection { stream, rest });
        }
        Ok(connections)
    }

    fn wait(&mut self, at_most: Duration) -> Result<(), Error> {
        match self.poll.poll(&mut self.events, Some(at_most)) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(Error::System("cannot wait for sockets", error)),
        }
        for event in &self.events {
            let link = &mut self.links[event.token().0];
            link.readable |= event.is_readable() || event.is_error();
            link.writable |= event.is_writable();
            link.ended |= event.is_read_closed() || event.is_error();
        }
        Ok(())
    }

    /// Reads once and hands every whole frame to the scenario. Returns whether there was a text frame.
    fn read(&mut self, number: usize, scenario: &mut impl Scenario) -> Result<bool, Error> {
        let link = &mut self.links[number];
        let chunk = &mut self.chunk;
        let kept = link.rest.len();
        if kept > chunk.len() / 2 {
            chunk.resize(2 * chunk.len(), 0);
        }
        chunk[..kept].copy_from_slice(&link.rest);
        let room = chunk.len() - kept;
        let got = match link.stream.read(&mut chunk[kept..]) {
            Ok(0) => return Err(hung_up()),
            Ok(got) => got,
            Err(error) if would_block(&error) => 0,
            Err(error) => return Err(Error::Broken(error)),
        };
        // A short read means that there is no more for now. The end of the stream is not signalled again: it must be read.
        link.readable = got == room || (link.ended && got > 0);
        let bytes = &chunk[..kept + got];
        let (mut at, mut moved) = (0, false);
        while let Some((frame, len)) = frame::parse(&bytes[at..]).map_err(|nonsense| refuse(&nonsense))? {
            match frame {
                Frame::Text(text) => {
                    for line in scan::lines(text) {
                        let answer = scan::answer(line).map_err(|_| malformed(line))?;
                        scenario.answer(number, &answer, &mut link.out)?;
                    }
                    moved = true;
                }
                Frame::Ping(payload) => frame::pong(&mut link.out, payload),
                Frame::Pong => {}
                Frame::Close(code, reason) => return Err(closed(code, reason)),
            }
            at += len;
        }
        link.rest.clear();
        link.rest.extend_from_slice(&bytes[at..]);
        Ok(moved)
    }
}

impl Link {
    /// Writes what the socket takes.
    fn write(&mut self) -> Result<(), Error> {
        while self.writable && self.written < self.out.len() {
            match self.stream.write(&self.out[self.written..]) {
                Ok(written) => self.written += written,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if would_block(&error) => self.writable = false,
                Err(error) => return Err(Error::Broken(error)),
            }
        }
        if self.written == self.out.len() {
            self.out.clear();
            (self.written, self.joined) = (0, 0);
        }
        Ok(())
    }
}

/// Sends a PING on every connection; the PONG comes after everything sent before it.
struct Drain<'a, S> {
    inner: &'a mut S,
    asked: Vec<bool>,
    left: usize,
}

impl<S: Scenario> Scenario for Drain<'_, S> {
    fn produce(&mut self, link: usize, out: &mut Vec<u8>) -> bool {
        if !std::mem::replace(&mut self.asked[link], true) {
            frame::text(out, &[br#"{"op":"PING"}"#]);
        }
        false
    }

    fn answer(&mut self, link: usize, answer: &Answer<'_>, out: &mut Vec<u8>) -> Result<(), Error> {
        if answer.op == b"PONG" {
            self.left = self.left.saturating_sub(1);
            return Ok(());
        }
        self.inner.answer(link, answer, out)
    }

    fn is_done(&self) -> bool {
        self.left == 0
    }

    fn state(&self) -> String {
        format!("{} connections were asked for a PONG", self.left)
    }
}
