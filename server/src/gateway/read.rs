//! What a connection reads: messages, each one frame or, where that was agreed, several.

use std::{future::poll_fn, ops::ControlFlow};

use futures_util::FutureExt;
use prom_protocol::{CloseCode, ErrorCode, client, frames};
use tokio::time::Instant;
use tungstenite::Message;

use super::{
    connection::{BURST, Connection, End},
    socket::{Incoming, Lost},
};

impl Connection {
    /// Handles the rest of a message that has one, or else what was read and what is readable now. Then hands over what it
    /// came to: one message per subscription, one to the writer.
    pub(super) async fn read_burst(&mut self, first: Option<Incoming>) -> ControlFlow<End> {
        let mut budget = BURST;
        let mut next = first;
        let end = loop {
            self.heard = Instant::now();
            let handled = match next {
                Some(read) => self.read(read, &mut budget).await,
                None => self.lines(&mut budget).await,
            };
            if handled.is_break() || budget == 0 || self.unread.is_some() || !self.may_take_frames() {
                break handled;
            }
            next = poll_fn(|cx| self.out.socket.poll_next(cx)).now_or_never();
            if next.is_none() {
                break handled;
            }
        };
        self.flush_settlements().await;
        self.flush_publishes();
        end
    }

    async fn read(&mut self, read: Incoming, budget: &mut usize) -> ControlFlow<End> {
        *budget -= 1;
        match read {
            Ok(Message::Text(text)) if self.out.is_batching() => {
                // The message counted for one; a message without a frame must not count for none.
                *budget += 1;
                self.unread = Some((text, 0));
                return self.lines(budget).await;
            }
            Ok(Message::Text(text)) => return self.frame(&text).await,
            Ok(Message::Binary(_) | Message::Frame(_)) => {
                self.error(ErrorCode::BadFrame, "binary frames are not spoken here, send text", None);
            }
            Ok(Message::Ping(_)) => self.out.owe_pong(),
            Ok(Message::Pong(_)) => {}
            Ok(Message::Close(_)) => return ControlFlow::Break(End::Closed),
            Err(Lost::Gone) => return ControlFlow::Break(End::Gone),
            Err(Lost::Violation) => return ControlFlow::Break(End::Close(CloseCode::Violation)),
            Err(Lost::NotText) => return ControlFlow::Break(End::Close(CloseCode::NotText)),
            Err(Lost::TooMuch) => return ControlFlow::Break(End::Close(CloseCode::AuthTimeout)),
            Err(Lost::TooLarge) => return ControlFlow::Break(End::Close(CloseCode::TooLarge)),
        }
        ControlFlow::Continue(())
    }

    /// Handles frames of a message until it or the budget is at its end, or the next one has to wait.
    async fn lines(&mut self, budget: &mut usize) -> ControlFlow<End> {
        let Some((message, from)) = self.unread.take() else { return ControlFlow::Continue(()) };
        let mut lines = frames(&message[from..]);
        loop {
            let rest = message.len() - lines.rest().len();
            if *budget == 0 || !self.may_take_frames() {
                if !lines.rest().is_empty() {
                    self.unread = Some((message, rest));
                }
                return ControlFlow::Continue(());
            }
            *budget -= 1;
            match lines.next() {
                Some(line) => self.frame(line).await?,
                None => return ControlFlow::Continue(()),
            }
        }
    }

    async fn frame(&mut self, text: &str) -> ControlFlow<End> {
        match client::parse(text) {
            Ok(request) => self.request(request.corr, request.frame).await,
            Err(bad) => {
                self.bad_request(&bad);
                ControlFlow::Continue(())
            }
        }
    }
}
