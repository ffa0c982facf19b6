//! Who a connection is: its AUTHs, and how their time ends.

use std::{ops::ControlFlow, sync::Arc};

use futures_util::FutureExt;
use prom_protocol::{
    CloseCode, ErrorCode, ServerFrame, Text, VERSION, limits,
    server::{ErrFrame, OkFrame},
};
use tokio::time::Instant;

use super::{
    connection::{Checking, Connection, Counted, End},
    publish::MAX_WAITING,
    session::Outcome,
};
use crate::{
    auth::{Access, Check, Refused},
    quota::pause,
};

impl Connection {
    pub(super) async fn auth(&mut self, token: &str, batch: bool, corr: Option<&Text<'_>>) -> ControlFlow<End> {
        let access = match self.node.verifier.check(token) {
            Check::Done(checked) => {
                let wait = self.node.keep_back(&checked, self.address);
                if wait.is_zero() {
                    return self.authenticated(checked, batch, corr).await;
                }
                async move {
                    tokio::time::sleep(wait).await;
                    checked
                }
                .boxed()
            }
            Check::Later(access) => {
                let (node, address) = (Arc::clone(&self.node), self.address);
                async move {
                    let checked = access.await;
                    pause(node.keep_back(&checked, address)).await;
                    checked
                }
                .boxed()
            }
        };
        let corr = corr.map(|corr| Text::from(corr.as_str().to_owned()));
        self.checking = Some(Checking { access, batch, corr });
        ControlFlow::Continue(())
    }

    /// Answers an AUTH.
    pub(super) async fn authenticated(
        &mut self,
        checked: Result<Access, Refused>,
        batch: bool,
        corr: Option<&Text<'_>>,
    ) -> ControlFlow<End> {
        // It may have been revoked between its check and now, and that change looked at before the session knew the token.
        let checked = checked.and_then(|access| {
            self.node.verifier.revocations().check(&access)?;
            Ok(access)
        });
        if checked.is_ok() && self.place.is_none() {
            // Not before it has a token: who has none must not keep out those who have.
            self.place = Counted::within(&self.node.admitted, self.node.limits.connections);
            if self.place.is_none() {
                if let Some(left_out) = self.node.refused.too_many.turn() {
                    tracing::warn!(limit = self.node.limits.connections, left_out, "connection refused: too many");
                }
                return ControlFlow::Break(End::Close(CloseCode::ConnectionLimit));
            }
        }
        let holder = checked.as_ref().ok().map(|access| access.holder);
        let share = match holder {
            Some(holder) if self.share.as_ref().is_none_or(|(own, _)| *own != holder) => {
                match self.node.quotas.share(holder) {
                    Ok(share) => Some((holder, share)),
                    Err(refusal) => {
                        self.refuse(&refusal, corr);
                        // One that works goes on with the token it has.
                        let new = self.session.policy().is_none();
                        return if new {
                            ControlFlow::Break(End::Close(CloseCode::ConnectionLimit))
                        } else {
                            ControlFlow::Continue(())
                        };
                    }
                }
            }
            _ => None,
        };
        match self.session.authenticate(checked) {
            Outcome::Accepted(expires_in_ms) => {
                if let Some((holder, share)) = share {
                    for (_, subscription) in self.subscriptions.iter_mut() {
                        if let Some(place) = &mut subscription.place {
                            share.adopt(place);
                        }
                    }
                    let whose = self.node.quotas.whose(holder, self.address);
                    self.publishes.set_limits(self.node.quotas.pace(whose), self.node.quotas.backlog(&share));
                    self.share = Some((holder, share));
                }
                self.out.socket.trust();
                self.send(&ServerFrame::Ok(OkFrame {
                    corr: corr.cloned(),
                    expires_in_ms,
                    batch,
                    version: Some(VERSION),
                    hub: Some(env!("CARGO_PKG_VERSION").into()),
                    max_frame_bytes: Some(limits::FRAME_BYTES as u64),
                    max_publishes: Some(MAX_WAITING as u32),
                    max_subscriptions: Some(u32::try_from(self.node.limits.subscriptions).unwrap_or(u32::MAX)),
                    ..OkFrame::default()
                }));
                // From here on, both ways: the client knows when it reads the OK.
                self.out.set_batching(batch);
                self.revoke().await;
            }
            Outcome::Refused(refused) => self.refuse_token(&refused, corr),
            Outcome::Banned(refused) => {
                self.refuse_token(&refused, corr);
                return ControlFlow::Break(End::Close(CloseCode::Token));
            }
        }
        ControlFlow::Continue(())
    }

    fn refuse_token(&mut self, refused: &Refused, corr: Option<&Text<'_>>) {
        self.node.refused_token("AUTH", refused);
        self.send(&ServerFrame::Err(ErrFrame {
            code: refused.code().as_str().into(),
            msg: refused.message().into(),
            corr: corr.cloned(),
            retry_after_ms: refused.retry_after_ms(),
            expired: refused.expired,
        }));
    }

    /// The session's time is over.
    pub(super) fn expired(&mut self) -> End {
        match self.session.expired() {
            Some(code) => {
                self.error(code, "the token's exp has passed", None);
                End::Close(CloseCode::Token)
            }
            None => End::Close(CloseCode::AuthTimeout),
        }
    }

    pub(super) fn is_revoked(&self) -> bool {
        self.session.access().is_some_and(|access| self.node.verifier.revocations().check(access).is_err())
    }

    /// Whether the token counts no more. Nothing more is read then, so that the connection is closed for it.
    pub(super) fn is_over(&mut self) -> bool {
        self.over |= self.session.deadline.is_some_and(|deadline| deadline <= Instant::now()) || self.is_revoked();
        self.over
    }

    /// The session's token counts no more. What waits to be sent is not its holder's any more either.
    pub(super) fn token_revoked(&mut self) -> End {
        self.node.verifier.revocations().ended();
        self.out.abandon();
        // The word that clients know to come unasked: get another token, or stop.
        self.error(ErrorCode::TokenExpired, "the token was revoked", None);
        End::Close(CloseCode::Token)
    }
}
