//! How many of the files that this process may have open its sockets may be.

/// The least that is left to the store: its log grows by two files at a time, and readers of old events open some.
const RESERVE: u64 = 64;

/// Room for sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SocketRoom {
    /// A socket's descriptor must be below this.
    pub(crate) below: u64,
    /// So many are free below it now.
    pub(crate) free: u64,
}

/// The room there is, if the system has a limit.
#[cfg(unix)]
pub(crate) fn room() -> Option<SocketRoom> {
    use std::os::fd::AsRawFd;
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current?;
    // The lowest number that is free: so many are taken, or a few more.
    let taken = std::fs::File::open("/dev/null").map_or(0, |file| u64::try_from(file.as_raw_fd()).unwrap_or(0));
    Some(of(most, taken))
}

#[cfg(not(unix))]
pub(crate) fn room() -> Option<SocketRoom> {
    None
}

#[cfg_attr(not(unix), expect(dead_code, reason = "there is no limit to apply it to"))]
fn of(most: u64, taken: u64) -> SocketRoom {
    let below = most - (most / 10).max(RESERVE).min(most / 2);
    SocketRoom { below, free: below.saturating_sub(taken) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_keeps_a_tenth_and_no_less_than_it_needs() {
        assert_eq!(of(8192, 20), SocketRoom { below: 8192 - 819, free: 8192 - 819 - 20 });
        assert_eq!(of(256, 20), SocketRoom { below: 192, free: 172 });
        assert_eq!(of(64, 40), SocketRoom { below: 32, free: 0 });
    }
}
