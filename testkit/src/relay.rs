//! A line between client and hub that a test can cut, slow down, chop up and let fall silent.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use crate::wait::until;

/// Passes bytes to a hub and back until it is told to do something worse. Dropping it ends its lines.
pub struct Relay {
    address: SocketAddr,
    faults: watch::Sender<Faults>,
    opened: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
    /// Owns the tasks of all lines.
    task: JoinHandle<()>,
}

#[derive(Clone, Copy)]
struct Faults {
    /// Changes when all lines are cut.
    cuts: u32,
    /// Changes when all lines fall silent.
    silences: u32,
    /// New lines are hung up on at once.
    away: bool,
    delay: Duration,
    piece: usize,
}

impl Relay {
    /// Starts one that connects to `hub` for each line.
    pub async fn start(hub: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let nothing = Faults { cuts: 0, silences: 0, away: false, delay: Duration::ZERO, piece: usize::MAX };
        let (faults, (opened, ended)) = (watch::Sender::new(nothing), Default::default());
        let task = tokio::spawn(accept(listener, hub, faults.clone(), Arc::clone(&opened), Arc::clone(&ended)));
        Self { address, faults, opened, ended, task }
    }

    /// The WebSocket URL of the hub behind it.
    pub fn url(&self) -> String {
        format!("ws://{}/ws", self.address)
    }

    /// How many lines there have been.
    pub fn opened(&self) -> usize {
        self.opened.load(Ordering::SeqCst)
    }

    /// How many of them have ended.
    pub fn ended(&self) -> usize {
        self.ended.load(Ordering::SeqCst)
    }

    /// Waits for a line, then cuts all there are.
    pub async fn cut(&self) {
        until("a line", async || self.opened() > self.ended()).await;
        self.hang_up().await;
    }

    /// Cuts all lines there are, in the middle of whatever passes, without a word to either side.
    pub async fn hang_up(&self) {
        let opened = self.opened();
        self.faults.send_modify(|faults| faults.cuts += 1);
        until("the lines to be cut", async || self.ended() >= opened).await;
    }

    /// From now on nothing passes on the lines there are, and neither side learns when the other ends. New lines work.
    pub fn black_hole(&self) {
        self.faults.send_modify(|faults| faults.silences += 1);
    }

    /// While `away`, new lines are hung up on at once: there is somebody at the door and no hub behind it.
    pub fn away(&self, away: bool) {
        self.faults.send_modify(|faults| faults.away = away);
    }

    /// Keeps each piece back for so long before it goes on, and reads the next only after it.
    pub fn delay(&self, delay: Duration) {
        self.faults.send_modify(|faults| faults.delay = delay);
    }

    /// Passes on at most so many bytes at once.
    pub fn pieces(&self, bytes: usize) {
        self.faults.send_modify(|faults| faults.piece = bytes.max(1));
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    hub: SocketAddr,
    faults: watch::Sender<Faults>,
    opened: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
) {
    let mut lines = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((near, _)) = accepted else { continue };
                // Before it is counted: a cut that comes now is meant for it.
                let (faults, ended) = (faults.subscribe(), Arc::clone(&ended));
                opened.fetch_add(1, Ordering::SeqCst);
                lines.spawn(async move {
                    line(near, hub, faults).await;
                    ended.fetch_add(1, Ordering::SeqCst);
                });
            }
            Some(_) = lines.join_next() => {}
        }
    }
}

async fn line(mut near: TcpStream, hub: SocketAddr, mut faults: watch::Receiver<Faults>) {
    let born = *faults.borrow();
    if born.away {
        return;
    }
    // Without a hub the line ends, as it would at a balancer.
    let Ok(mut far) = TcpStream::connect(hub).await else { return };
    // Each piece is to be a piece on the wire too.
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let ((near_in, near_out), (far_in, far_out)) = (near.split(), far.split());
    let (up, down) = (faults.clone(), faults.clone());
    tokio::select! {
        _ = pass(near_in, far_out, &up) => return,
        _ = pass(far_in, near_out, &down) => return,
        changed = faults.wait_for(|faults| faults.cuts != born.cuts || faults.silences != born.silences) => {
            if changed.is_err() {
                return;
            }
        }
    }
    // Silent: both ends stay open, and what they say stays unheard, until somebody cuts the line.
    let _ = faults.wait_for(|faults| faults.cuts != born.cuts).await;
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    faults: &watch::Receiver<Faults>,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        let mut rest = &buffer[..read];
        while !rest.is_empty() {
            let Faults { delay, piece, .. } = *faults.borrow();
            let (now, later) = rest.split_at(piece.min(rest.len()));
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            to.write_all(now).await?;
            rest = later;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use futures_util::FutureExt;

    use super::*;
    use crate::wait::in_time;

    /// A relay before a server that sends back what it gets.
    async fn echo() -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relay = Relay::start(listener.local_addr().unwrap()).await;
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut input, mut output) = stream.split();
                    let _ = tokio::io::copy(&mut input, &mut output).await;
                });
            }
        });
        relay
    }

    async fn there_and_back(line: &mut TcpStream, bytes: &[u8]) {
        line.write_all(bytes).await.unwrap();
        let mut back = vec![0; bytes.len()];
        in_time(line.read_exact(&mut back)).await.unwrap();
        assert_eq!(back, bytes);
    }

    #[tokio::test]
    async fn a_cut_ends_the_lines_there_are() {
        let relay = echo().await;
        let mut line = TcpStream::connect(relay.address).await.unwrap();
        there_and_back(&mut line, b"before").await;
        relay.cut().await;
        assert!(!matches!(in_time(line.read(&mut [0; 1])).await, Ok(1..)));
        assert_eq!((relay.opened(), relay.ended()), (1, 1));
        there_and_back(&mut TcpStream::connect(relay.address).await.unwrap(), b"after").await;
    }

    #[tokio::test]
    async fn in_a_black_hole_nothing_passes_and_nothing_ends() {
        let relay = echo().await;
        let mut lost = TcpStream::connect(relay.address).await.unwrap();
        there_and_back(&mut lost, b"before").await;
        relay.black_hole();
        lost.write_all(b"into the silence").await.unwrap();
        there_and_back(&mut TcpStream::connect(relay.address).await.unwrap(), b"another").await;
        assert!(lost.read(&mut [0; 1]).now_or_never().is_none());
        assert_eq!(relay.ended(), 0);
        relay.hang_up().await;
        assert_eq!(relay.ended(), relay.opened());
    }

    #[tokio::test]
    async fn while_away_new_lines_are_hung_up_on() {
        let relay = echo().await;
        relay.away(true);
        let mut line = TcpStream::connect(relay.address).await.unwrap();
        assert!(!matches!(in_time(line.read(&mut [0; 1])).await, Ok(1..)));
        relay.away(false);
        there_and_back(&mut TcpStream::connect(relay.address).await.unwrap(), b"back").await;
    }

    #[tokio::test]
    async fn each_piece_is_held_back() {
        let relay = echo().await;
        let mut line = TcpStream::connect(relay.address).await.unwrap();
        there_and_back(&mut line, b"before").await;
        relay.pieces(10);
        relay.delay(Duration::from_millis(5));
        let began = Instant::now();
        there_and_back(&mut line, &[7; 200]).await;
        // Twenty pieces there, and at least as long back.
        assert!(began.elapsed() >= Duration::from_millis(20 * 5), "it took {:?}", began.elapsed());
    }

    #[tokio::test]
    async fn a_relay_that_is_dropped_ends_its_lines() {
        let relay = echo().await;
        let mut line = TcpStream::connect(relay.address).await.unwrap();
        there_and_back(&mut line, b"before").await;
        drop(relay);
        assert!(!matches!(in_time(line.read(&mut [0; 1])).await, Ok(1..)));
    }
}
