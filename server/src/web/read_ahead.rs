//! Sockets that read far ahead when much has come, and hold no buffer when nothing has.
//!
//! A WebSocket that reads through a small buffer of its own is cheap while it is idle and slow while it is busy: each
//! few kilobytes are a system call. Here one large buffer a thread takes what has come, and what is more than was asked
//! for is kept until it is asked for.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes read at once.
const AHEAD: usize = 32 * 1024;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; AHEAD].into());
}

/// A stream that is read ahead of what is asked for.
#[derive(Debug)]
pub(crate) struct ReadAhead<S> {
    pub(super) stream: S,
    /// Read and not asked for yet, from `at` on.
    ahead: Vec<u8>,
    at: usize,
}

impl<S> ReadAhead<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, ahead: Vec::new(), at: 0 }
    }
}

impl<S: AsyncRead + Unpin> ReadAhead<S> {
    /// What has come and was not asked for yet; empty when nothing more will come.
    pub(super) fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        if self.at == self.ahead.len() {
            let Self { stream, ahead, at } = self;
            BUFFER
                .with_borrow_mut(|buffer| {
                    let mut read = ReadBuf::new(buffer);
                    ready!(Pin::new(stream).poll_read(cx, &mut read))?;
                    *ahead = read.filled().to_vec();
                    *at = 0;
                    Poll::Ready(io::Result::Ok(()))
                })
                .map(|read| read.map(|()| &self.ahead[self.at..]))
        } else {
            Poll::Ready(Ok(&self.ahead[self.at..]))
        }
    }

    /// Whether something has come that was not asked for yet.
    pub(super) fn is_ahead(&self) -> bool {
        self.at < self.ahead.len()
    }

    /// Takes the first `count` bytes of what `poll_ahead` gave.
    pub(super) fn consume(&mut self, count: usize) {
        self.at += count;
        if self.at == self.ahead.len() {
            self.ahead = Vec::new();
            self.at = 0;
        }
    }

    /// Reads at most `most` bytes.
    pub(super) fn poll_read_most(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        most: usize,
    ) -> Poll<io::Result<()>> {
        let most = most.min(buf.remaining());
        if self.is_ahead() {
            let rest = &self.ahead[self.at..];
            let count = rest.len().min(most);
            buf.put_slice(&rest[..count]);
            self.consume(count);
            return Poll::Ready(Ok(()));
        }
        if most >= AHEAD && most == buf.remaining() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        BUFFER.with_borrow_mut(|buffer| {
            let mut read = ReadBuf::new(buffer);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
            let (now, later) = read.filled().split_at(read.filled().len().min(most));
            buf.put_slice(now);
            if !later.is_empty() {
                self.ahead = later.to_vec();
            }
            Poll::Ready(Ok(()))
        })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadAhead<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_read_most(cx, buf, usize::MAX)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadAhead<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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

    #[tokio::test]
    async fn bytes_come_in_order_through_reads_of_any_size_and_nothing_is_held_in_between() {
        let (near, mut far) = duplex(200_000);
        let sent: Vec<u8> = (0..150_000_u32).map(|i| (i * 7 / 3) as u8).collect();
        far.write_all(&sent).await.unwrap();
        drop(far);
        let mut socket = ReadAhead::new(near);
        let mut received = Vec::new();
        for size in [1, 10, 4096, 100, AHEAD, 3, AHEAD + 1].into_iter().cycle() {
            let mut buffer = vec![0; size];
            let count = socket.read(&mut buffer).await.unwrap();
            if count == 0 {
                break;
            }
            received.extend_from_slice(&buffer[..count]);
            assert!(socket.ahead.len() < AHEAD);
            if socket.at == socket.ahead.len() {
                assert_eq!(socket.ahead.capacity(), 0);
            }
        }
        assert!(received == sent);
    }
}
