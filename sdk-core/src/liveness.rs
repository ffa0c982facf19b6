//! Whether the connection still lives: a PING after silence, and the end when nothing follows it.

/// What to do about the hub's silence.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Check {
    Fine,
    Ping,
    Dead,
}

/// Counts the hub's silence. A connection is given up only after a PING of ours went unanswered, so that a process that
/// slept, with its frames still unread, does not take its own sleep for the hub's.
#[derive(Debug)]
pub(crate) struct Liveness {
    ping_after_ms: u64,
    timeout_ms: u64,
    heard: u64,
    pinged: Option<u64>,
}

impl Liveness {
    pub(crate) fn new(ping_after_ms: u64, timeout_ms: u64) -> Self {
        Self { ping_after_ms, timeout_ms, heard: 0, pinged: None }
    }

    pub(crate) fn heard(&mut self, now: u64) {
        self.heard = now;
        self.pinged = None;
    }

    pub(crate) fn deadline(&self) -> u64 {
        self.pinged
            .map_or_else(|| self.heard.saturating_add(self.ping_after_ms), |at| at.saturating_add(self.timeout_ms))
    }

    /// What to do at `now`. The caller must send the PING when this returns it.
    pub(crate) fn check(&mut self, now: u64) -> Check {
        if now < self.deadline() {
            return Check::Fine;
        }
        if self.pinged.is_some() {
            return Check::Dead;
        }
        self.pinged = Some(now);
        Check::Ping
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_after_silence_and_gives_up_after_more() {
        let mut liveness = Liveness::new(25_000, 35_000);
        liveness.heard(1_000);
        assert_eq!(liveness.check(25_999), Check::Fine);
        assert_eq!(liveness.check(26_000), Check::Ping);
        assert_eq!(liveness.deadline(), 61_000);
        assert_eq!(liveness.check(60_999), Check::Fine);
        assert_eq!(liveness.check(61_000), Check::Dead);
    }

    #[test]
    fn any_frame_is_a_sign_of_life_and_sleep_is_not_death() {
        let mut liveness = Liveness::new(25_000, 35_000);
        liveness.heard(0);
        assert_eq!(liveness.check(500_000), Check::Ping, "slept for long: asks first");
        liveness.heard(500_010);
        assert_eq!(liveness.check(525_009), Check::Fine);
    }
}
