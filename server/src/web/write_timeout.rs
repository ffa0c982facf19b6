//! Sockets with a write timeout: one whose peer takes nothing, or next to nothing, for so long fails.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

/// What a peer takes at the least, in each `limit` in which something waits for it.
const LEAST: usize = 16 * 1024;

/// A socket that fails when its peer takes next to nothing for `limit`. The timer exists only while something waits.
#[derive(Debug)]
pub(crate) struct WriteTimeout<S> {
    pub(super) stream: S,
    limit: Duration,
    stalled: Option<Stalled>,
    /// It has failed because its peer took too little.
    pub(super) failed: bool,
}

#[derive(Debug)]
struct Stalled {
    timer: Pin<Box<Sleep>>,
    taken: usize,
}

impl<S> WriteTimeout<S> {
    pub(super) fn new(stream: S, limit: Duration) -> Self {
        Self { stream, limit, stalled: None, failed: false }
    }

    /// Changes the limit from the next wait on.
    pub(super) fn set_limit(&mut self, limit: Duration) {
        self.limit = limit;
    }

    fn check(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(count)) => {
                if let Some(stalled) = &mut self.stalled {
                    stalled.taken += count;
                    if stalled.taken >= LEAST {
                        self.stalled = None;
                    }
                }
                written
            }
            Poll::Ready(Err(_)) => written,
            Poll::Pending => {
                let limit = self.limit;
                let new = || Stalled { timer: Box::pin(tokio::time::sleep(limit)), taken: 0 };
                ready!(self.stalled.get_or_insert_with(new).timer.as_mut().poll(cx));
                self.failed = true;
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing, or too little")))
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteTimeout<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteTimeout<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.check(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.check(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Called when nothing waits any more: it was all taken, if little.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stalled = None;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_given_up_and_one_that_is_slow_is_not() {
        let (near, mut far) = duplex(LEAST);
        let mut socket = WriteTimeout::new(near, Duration::from_secs(30));
        let writing = tokio::spawn(async move { socket.write_all(&[0; 8 * LEAST]).await.map(|()| socket) });
        for _ in 0..8 {
            tokio::time::sleep(Duration::from_secs(29)).await;
            far.read_exact(&mut [0; LEAST]).await.unwrap();
        }
        let mut socket = writing.await.unwrap().expect("slow is not stuck");
        let error = socket.write_all(&[0; 2 * LEAST]).await.unwrap_err();
        assert_eq!((error.kind(), socket.failed), (io::ErrorKind::TimedOut, true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_a_byte_now_and_then_is_given_up_too() {
        // Each byte bought it another half minute.
        let (near, mut far) = duplex(8);
        let mut socket = WriteTimeout::new(near, Duration::from_secs(30));
        let writing = tokio::spawn(async move { socket.write_all(&[0; 64]).await });
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_secs(9)).await;
            let _ = far.read(&mut [0; 1]).await;
        }
        assert_eq!(writing.await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn little_is_enough_where_there_is_no_more() {
        let (near, mut far) = duplex(8);
        let mut socket = WriteTimeout::new(near, Duration::from_secs(30));
        for _ in 0..3 {
            let reading = tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs(20)).await;
                far.read_exact(&mut [0; 12]).await.unwrap();
                far
            });
            socket.write_all(&[0; 12]).await.unwrap();
            socket.flush().await.unwrap();
            far = reading.await.unwrap();
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
    }
}
