//! What every connection and every request needs of the running hub.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use axum::http::{HeaderMap, header, uri::Authority};
use prom_protocol::limits;
use prom_store::Store;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    auth::{Access, Refused, Verifier},
    flow::{metrics::Metrics, topics::Topics, writer::Writer},
    groups::Groups,
    quota::{Quotas, Shares, pause},
    sparing::Sparing,
    web::Page,
};

/// How much longer than [`Limits::write_timeout`] a socket is given before it fails by itself: a WebSocket that is stuck is
/// closed with its own code first.
pub(crate) const WRITE_GRACE: Duration = Duration::from_secs(4);

/// What connections and requests may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// WebSocket connections that have a token; default 20000. Fewer where the open files of the process do not suffice for
    /// as many.
    pub connections: usize,
    /// Sockets of the public port, whatever they speak; default 25000. Fewer where the open files of the process do not
    /// suffice for as many: a tenth of them, at least 64, is the store's.
    pub sockets: usize,
    /// Sockets of the public port from one address, or one /64 with IPv6; default: as many as there are. Behind a proxy
    /// all come from one.
    pub sockets_per_address: Option<usize>,
    /// Time for the head of an HTTP request; default 10 s.
    pub head_timeout: Duration,
    /// Time that an HTTP connection may be idle between two requests; default 60 s.
    pub idle_timeout: Duration,
    /// Subscriptions of one connection; default 128.
    pub subscriptions: usize,
    /// Topics of a connection's subscriptions without a group together; default 200000. Each takes some 150 bytes.
    pub followed_topics: usize,
    /// Time for a first good AUTH; default 5 s.
    pub auth_timeout: Duration,
    /// Time between pings; default 25 s. A connection that is silent for three of them is taken for dead.
    pub ping_every: Duration,
    /// Time a connection may go without taking anything that waits for it; default 30 s.
    pub write_timeout: Duration,
    /// Exports under way; default 32. A quarter of them, as of the next two, may be of one subject.
    pub exports: usize,
    /// Pages of `/replay` under way, each of up to 4 MiB and a little more; default 32.
    pub replays: usize,
    /// Publishes over HTTP whose body is read or that wait for their commit, each of up to 1 MiB; default 256. More than
    /// these wait for their turn.
    pub publishes: usize,
    /// Largest frame before AUTH; default 16 KiB.
    pub frame_bytes_before_auth: usize,
    /// What one subject or one address may have of it.
    pub shares: Shares,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            sockets: 25_000,
            sockets_per_address: None,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            subscriptions: 128,
            followed_topics: 200_000,
            auth_timeout: Duration::from_secs(5),
            ping_every: Duration::from_secs(25),
            write_timeout: Duration::from_secs(30),
            exports: 32,
            replays: 32,
            publishes: 256,
            frame_bytes_before_auth: limits::FRAME_BYTES_BEFORE_AUTH,
            shares: Shares::default(),
        }
    }
}

/// The hub as its connections and requests see it.
#[derive(Debug)]
pub(crate) struct Node {
    /// The log.
    pub(crate) store: Arc<dyn Store>,
    /// The topics.
    pub(crate) topics: Arc<Topics>,
    /// The way to the log.
    pub(crate) writer: Writer,
    /// What is counted.
    pub(crate) metrics: Arc<Metrics>,
    /// The durable groups.
    pub(crate) groups: Groups,
    /// Who checks tokens.
    pub(crate) verifier: Verifier,
    /// What connections and requests may take.
    pub(crate) limits: Limits,
    /// Who takes how much of it.
    pub(crate) quotas: Arc<Quotas>,
    /// The public port speaks TLS.
    pub(crate) secure: bool,
    /// Origins of pages that may connect; none: any.
    pub(crate) origins: Option<Vec<String>>,
    /// The live page; none: there is none.
    pub(crate) page: Option<Page>,
    /// Owner of the connections' tasks.
    pub(crate) tasks: TaskTracker,
    /// The hub has begun to end.
    pub(crate) ending: CancellationToken,
    /// How many connections there are now, and of them those that have a token.
    pub(crate) connections: Arc<AtomicUsize>,
    pub(crate) admitted: Arc<AtomicUsize>,
    /// Warnings of connections that were not taken.
    pub(crate) refused: RefusedConnections,
}

/// Least time between two warnings of a kind.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Warnings of connections that were not taken: strangers can bring these about as often as they like.
#[derive(Debug)]
pub(crate) struct RefusedConnections {
    /// Pages of other origins.
    pub(crate) origins: Sparing,
    /// More than there may be.
    pub(crate) too_many: Sparing,
}

impl Default for RefusedConnections {
    fn default() -> Self {
        Self { origins: Sparing::new(WARN_EVERY), too_many: Sparing::new(WARN_EVERY) }
    }
}

impl Node {
    /// Counts a token that was refused where `by` says, and says so in the log.
    pub(crate) fn refused_token(&self, by: &'static str, refused: &Refused) {
        self.metrics.auth_refused(refused.code());
        self.verifier.log(by, refused);
    }

    /// What the token of a request over HTTP from `address` stands for, or why there is none; too many bad ones come late.
    ///
    /// # Errors
    /// That of `token`, and as [`Verifier::check`](crate::auth::Verifier::check).
    pub(crate) async fn access(
        &self,
        by: &'static str,
        token: Result<&str, Refused>,
        address: IpAddr,
    ) -> Result<Access, Refused> {
        let checked = match token {
            Ok(token) => self.verifier.check(token).done().await,
            Err(refused) => Err(refused),
        };
        // Counted before the wait, which ends with the connection.
        let checked = checked.inspect_err(|refused| self.refused_token(by, refused));
        pause(self.keep_back(&checked, address)).await;
        checked
    }

    /// How long to wait before a token's answer is given: for a refused one, if its address has sent many.
    pub(crate) fn keep_back(&self, checked: &Result<Access, Refused>, address: IpAddr) -> Duration {
        match checked {
            Err(refused) if refused.is_of_the_token() => self.quotas.failed(address),
            _ => Duration::ZERO,
        }
    }

    /// Whether pages of `origin` may talk to the hub: any, those of the list, and those of the hub's own address.
    pub(crate) fn admits(&self, origin: &str, headers: &HeaderMap) -> bool {
        self.origins.as_ref().is_none_or(|allowed| allowed.iter().any(|one| one == origin))
            || self.is_own(origin, headers)
    }

    /// Whether a page of this hub's own is connecting: its origin is where it connects to. Under the hub's own TLS none of
    /// its pages came in the clear, where anybody on the way could have written them.
    fn is_own(&self, origin: &str, headers: &HeaderMap) -> bool {
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let Some((scheme, authority)) = origin.split_once("://") else { return false };
        host == Some(authority)
            && match scheme {
                // Under that name somebody has a certificate here, the hub or whoever is in front of it.
                "https" => true,
                "http" => !self.secure && is_no_name(authority),
                _ => false,
            }
    }
}

/// Whether this is an address or `localhost`, with or without a port. Any other name leads where its owner says, at one time to
/// a page of theirs and at another to this hub (DNS rebinding), so that page and hub have the same origin.
fn is_no_name(authority: &str) -> bool {
    let Ok(authority) = authority.parse::<Authority>() else { return false };
    let host = authority.host();
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<Ipv4Addr>().is_ok()
        || host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .is_some_and(|v6| v6.parse::<Ipv6Addr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_localhost_are_no_names() {
        for authority in ["localhost", "LocalHost:8090", "127.0.0.1:8090", "192.168.1.5", "[::1]", "[fd00::5]:8090"] {
            assert!(is_no_name(authority), "{authority}");
        }
        for authority in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:8090",
            "localhost.",
            "hub",
            "::1",
            "[evil.example]",
            "1.2.3",
            "lokalh\u{f6}st",
        ] {
            assert!(!is_no_name(authority), "{authority}");
        }
    }
}
