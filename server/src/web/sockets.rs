//! How many sockets a port has, and which of them goes when there is no room.
//!
//! A socket has a [`Seat`]. Whoever may do what it asks for keeps theirs; the others may be asked to leave, the one that sits
//! there longest first, also while a bad token of theirs waits for its answer. So sockets that only wait never keep out
//! those that have something to say.

use std::{
    collections::{BTreeMap, HashMap},
    future::poll_fn,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use tokio::sync::Notify;

use crate::sparing::Sparing;

/// How long a socket that is asked to leave is waited for.
const LEAVING: Duration = Duration::from_secs(1);
/// One warning of a kind in so long.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Why a socket was not taken, or was closed although its peer had not asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The port has as many as it may.
    Limit,
    /// Its address has as many as it may.
    Address,
    /// The process has as many open files as it may, but for what the store needs.
    Files,
    /// The system could not accept one.
    Accept,
    /// It had no token, and made room for another one.
    Evicted,
    /// Its request's head, or the TLS handshake before that, did not come in time.
    Head,
    /// It and the port could not agree on TLS.
    Handshake,
    /// It was idle between two requests.
    Idle,
    /// It took nothing, or too little, of what it had asked for.
    Stalled,
}

impl Cut {
    pub(crate) const ALL: [Self; 9] = [
        Self::Limit,
        Self::Address,
        Self::Files,
        Self::Accept,
        Self::Evicted,
        Self::Head,
        Self::Handshake,
        Self::Idle,
        Self::Stalled,
    ];

    /// As a label of a metric.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Address => "address",
            Self::Files => "files",
            Self::Accept => "accept",
            Self::Evicted => "evicted",
            Self::Head => "head",
            Self::Handshake => "handshake",
            Self::Idle => "idle",
            Self::Stalled => "stalled",
        }
    }

    /// What the operator is told; nothing where a slow or idle peer is all there is to it.
    const fn warning(self) -> Option<&'static str> {
        match self {
            Self::Limit => Some("sockets refused: as many as this port may have, and none of them idle"),
            Self::Address => Some("sockets refused: one address has as many as it may"),
            Self::Files => Some("sockets refused: the rest of the open files this process may have is the store's"),
            Self::Accept => Some("sockets cannot be accepted"),
            Self::Evicted => Some("sockets without a token were closed to make room for others"),
            Self::Handshake => Some("TLS handshakes failed"),
            Self::Head | Self::Idle | Self::Stalled => None,
        }
    }
}

/// The sockets of a port.
#[derive(Debug)]
pub(crate) struct Sockets {
    /// The port's name, for people.
    pub(crate) port: &'static str,
    most: usize,
    most_of_address: Option<usize>,
    table: Mutex<Table>,
    /// One has left.
    left: Notify,
    cut: [AtomicU64; Cut::ALL.len()],
    warnings: [Sparing; Cut::ALL.len()],
}

#[derive(Debug, Default)]
struct Table {
    open: usize,
    /// Those that may be asked to leave, in the order in which they became so.
    waiting: BTreeMap<u64, Arc<Place>>,
    next: u64,
    /// Only where an address may have so many.
    addresses: HashMap<IpAddr, usize>,
}

/// Where the one who waits and the one who asks it to leave meet.
#[derive(Debug, Default)]
struct Place {
    /// It is in the line.
    waits: AtomicBool,
    evicted: AtomicBool,
    waker: AtomicWaker,
}

impl Sockets {
    /// At most `most`, and `most_of_address` of one address (of one /64 with IPv6).
    pub(crate) fn new(port: &'static str, most: usize, most_of_address: Option<usize>) -> Arc<Self> {
        Arc::new(Self {
            port,
            most,
            most_of_address,
            table: Mutex::default(),
            left: Notify::new(),
            cut: Default::default(),
            warnings: std::array::from_fn(|_| Sparing::new(WARN_EVERY)),
        })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are.
    pub(crate) fn open(&self) -> usize {
        self.table().open
    }

    /// How many were cut for this reason.
    pub(crate) fn count(&self, why: Cut) -> u64 {
        self.cut[why as usize].load(Relaxed)
    }

    /// Counts one that was cut, and warns of it, if it did not do so a moment ago.
    pub(crate) fn cut(&self, why: Cut, detail: &dyn std::fmt::Display) {
        self.cut[why as usize].fetch_add(1, Relaxed);
        let Some(warning) = why.warning() else {
            tracing::debug!(port = self.port, reason = why.as_str(), %detail, "socket closed");
            return;
        };
        if let Some(left_out) = self.warnings[why as usize].turn() {
            tracing::warn!(port = self.port, count = left_out + 1, limit = self.most, %detail, "{warning}");
        }
    }

    /// A seat for a socket from `address`, if need be that of one that only waits.
    ///
    /// # Errors
    /// There is none.
    pub(crate) async fn admit(self: &Arc<Self>, address: IpAddr) -> Result<Arc<Seat>, Cut> {
        let address = network(address);
        loop {
            {
                let mut table = self.table();
                if let Some(most) = self.most_of_address
                    && table.addresses.get(&address).is_some_and(|own| *own >= most)
                {
                    return Err(Cut::Address);
                }
                if table.open < self.most {
                    table.open += 1;
                    if self.most_of_address.is_some() {
                        *table.addresses.entry(address).or_default() += 1;
                    }
                    drop(table);
                    let seat =
                        Seat { sockets: Arc::clone(self), address, place: Arc::default(), since: Mutex::new(None) };
                    seat.wait();
                    return Ok(Arc::new(seat));
                }
            }
            if !self.make_room().await {
                return Err(Cut::Limit);
            }
        }
    }

    /// Asks the one that waits longest to leave, and waits for a moment until it has. `false`: there is none, or it did not.
    pub(crate) async fn make_room(&self) -> bool {
        // Who left before this call does not count.
        let left = self.left.notified();
        let mut left = std::pin::pin!(left);
        left.as_mut().enable();
        let Some((_, place)) = self.table().waiting.pop_first() else { return false };
        place.evicted.store(true, Relaxed);
        place.waker.wake();
        self.cut(Cut::Evicted, &"");
        tokio::time::timeout(LEAVING, left).await.is_ok()
    }
}

/// Whose limit an address counts for: with IPv6 that of its /64, of which one machine may have all.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let mut segments = address.segments();
            segments[4..].fill(0);
            IpAddr::V6(Ipv6Addr::from(segments))
        }
        v4 => v4,
    }
}

/// A socket's place among those of its port, for as long as it is open.
#[derive(Debug)]
pub(crate) struct Seat {
    sockets: Arc<Sockets>,
    address: IpAddr,
    place: Arc<Place>,
    /// Its place in the line of those that may be asked to leave, if it stands there.
    since: Mutex<Option<u64>>,
}

impl Seat {
    /// The address it counts for.
    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }

    /// From now on it may be asked to leave.
    pub(crate) fn wait(&self) {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let mut table = self.sockets.table();
        if since.is_none() {
            let number = table.next;
            table.next += 1;
            table.waiting.insert(number, Arc::clone(&self.place));
            *since = Some(number);
            self.place.waits.store(true, Relaxed);
        }
    }

    /// From now on it may not.
    pub(crate) fn keep(&self) {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = since.take() {
            self.sockets.table().waiting.remove(&number);
            self.place.waits.store(false, Relaxed);
        }
    }

    /// Whether it was asked to leave; if not, the task is woken when it is.
    pub(crate) fn poll_evicted(&self, cx: &mut Context<'_>) -> bool {
        if !self.place.waits.load(Relaxed) {
            return false;
        }
        self.place.waker.register(cx.waker());
        self.is_evicted()
    }

    /// Returns when it is asked to leave. Not for another task than the one that serves the socket: one is woken.
    pub(crate) async fn evicted(&self) {
        poll_fn(|cx| if self.poll_evicted(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    pub(crate) fn is_evicted(&self) -> bool {
        self.place.evicted.load(Relaxed)
    }

    /// Counts that it was closed.
    pub(crate) fn cut(&self, why: Cut) {
        self.sockets.cut(why, &self.address);
    }

    /// The same, with what came before it.
    pub(crate) fn cut_as(&self, why: Cut, detail: &dyn std::fmt::Display) {
        self.sockets.cut(why, &format_args!("{}: {detail}", self.address));
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.keep();
        let mut table = self.sockets.table();
        table.open -= 1;
        if let Some(own) = table.addresses.get_mut(&self.address) {
            *own -= 1;
            if *own == 0 {
                table.addresses.remove(&self.address);
            }
        }
        drop(table);
        self.sockets.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    /// Leaves as a socket does: when it is woken.
    fn leaves(seat: Arc<Seat>) -> tokio::task::JoinHandle<()> {
        tokio::spawn(async move { seat.evicted().await })
    }

    #[tokio::test]
    async fn who_waits_longest_makes_room_and_who_has_a_token_stays() {
        let sockets = Sockets::new("public", 3, None);
        let kept = sockets.admit(HERE).await.unwrap();
        let first = leaves(sockets.admit(HERE).await.unwrap());
        let second = sockets.admit(HERE).await.unwrap();
        kept.keep();
        let third = sockets.admit(HERE).await.expect("the first makes room");
        first.await.unwrap();
        assert!(!kept.is_evicted() && !second.is_evicted() && !third.is_evicted());
        assert_eq!((sockets.open(), sockets.count(Cut::Evicted)), (3, 1));
        second.keep();
        third.keep();
        assert_eq!(sockets.admit(HERE).await.expect_err("all have a token"), Cut::Limit);
        drop(third);
        sockets.admit(HERE).await.expect("a place is free");
        assert_eq!(sockets.open(), 2);
    }

    #[tokio::test]
    async fn an_address_has_its_own_limit() {
        let sockets = Sockets::new("public", 9, Some(2));
        let of = |text: &str| -> IpAddr { text.parse().unwrap() };
        let first = sockets.admit(of("2001:db8::1")).await.unwrap();
        let _second = sockets.admit(of("2001:db8::2")).await.unwrap();
        assert_eq!(sockets.admit(of("2001:db8::3")).await.expect_err("the same /64"), Cut::Address);
        let _other = sockets.admit(of("2001:db8:0:1::1")).await.unwrap();
        let _four = sockets.admit(of("::ffff:192.0.2.1")).await.unwrap();
        let _same = sockets.admit(of("192.0.2.1")).await.unwrap();
        assert_eq!(sockets.admit(of("192.0.2.1")).await.expect_err("one address, two ways to write it"), Cut::Address);
        drop(first);
        sockets.admit(of("2001:db8::3")).await.expect("room again");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_does_not_leave_is_not_waited_for_long() {
        let sockets = Sockets::new("public", 1, None);
        let _stays = sockets.admit(HERE).await.unwrap();
        assert_eq!(sockets.admit(HERE).await.expect_err("it stays"), Cut::Limit);
    }
}
