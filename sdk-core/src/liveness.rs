//! Whether the connection still lives: a PING after silence, and the end when nothing follows it.

/// What to do about the hub's silence.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Check {
    Fine,
    Ping,
    Dead,
}

/// How much silence is borne: before a PING, and after it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    pub(crate) ping_after_ms: u64,
    pub(crate) timeout_ms: u64,
}

/// Counts the hub's silence. A connection is given up only after a PING of ours went unanswered, so that a process that
/// slept, with its frames still unread, does not take its own sleep for the hub's.
#[derive(Debug)]
pub(crate) struct Liveness {
    idle: Patience,
    /// While a request waits for its answer.
    waiting: Patience,
    heard: u64,
    /// When the first request was made that waits, if that was after `heard`.
    asked: u64,
    pinged: Option<u64>,
}

impl Liveness {
    pub(crate) fn new(idle: Patience, waiting: Patience) -> Self {
        Self { idle, waiting, heard: 0, asked: 0, pinged: None }
    }

    pub(crate) fn heard(&mut self, now: u64) {
        self.heard = now;
        self.pinged = None;
    }

    /// A request is made while none waits.
    pub(crate) fn asked(&mut self, now: u64) {
        self.asked = now;
    }

    /// When to look again; `waits` says whether a request waits.
    pub(crate) fn deadline(&self, waits: bool) -> u64 {
        let after = |since: u64, ms: u64| since.saturating_add(ms);
        match self.pinged {
            Some(at) => {
                let idle = after(at, self.idle.timeout_ms);
                // A request that was made after the PING has a claim of its own.
                if waits { idle.min(after(at.max(self.asked), self.waiting.timeout_ms)) } else { idle }
            }
            None => {
                let idle = after(self.heard, self.idle.ping_after_ms);
                if waits { idle.min(after(self.heard.max(self.asked), self.waiting.ping_after_ms)) } else { idle }
            }
        }
    }

    /// What to do at `now`. The caller must send the PING when this returns it.
    pub(crate) fn check(&mut self, now: u64, waits: bool) -> Check {
        if now < self.deadline(waits) {
            return Check::Fine;
        }
        // Late by as much again: this process slept, and what the hub has said meanwhile may not be read yet. Asks again.
        let slept = now.saturating_sub(self.deadline(waits)) > self.waiting.timeout_ms / 2;
        if self.pinged.is_some() && !slept {
            return Check::Dead;
        }
        self.pinged = Some(now);
        Check::Ping
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn liveness() -> Liveness {
        Liveness::new(
            Patience { ping_after_ms: 25_000, timeout_ms: 35_000 },
            Patience { ping_after_ms: 4_000, timeout_ms: 8_000 },
        )
    }

    #[test]
    fn pings_after_silence_and_gives_up_after_more() {
        let mut liveness = liveness();
        liveness.heard(1_000);
        assert_eq!(liveness.check(25_999, false), Check::Fine);
        assert_eq!(liveness.check(26_000, false), Check::Ping);
        assert_eq!(liveness.deadline(false), 61_000);
        assert_eq!(liveness.check(60_999, false), Check::Fine);
        assert_eq!(liveness.check(61_000, false), Check::Dead);
    }

    #[test]
    fn a_request_that_waits_makes_it_less_patient() {
        let mut liveness = liveness();
        liveness.heard(1_000);
        liveness.asked(20_000);
        assert_eq!(liveness.check(23_999, true), Check::Fine);
        assert_eq!(liveness.check(24_000, true), Check::Ping);
        assert_eq!(liveness.check(31_999, true), Check::Fine);
        assert_eq!(liveness.check(32_000, true), Check::Dead);
    }

    #[test]
    fn a_request_behind_the_ping_of_an_idle_connection_has_its_own_time() {
        let mut liveness = liveness();
        liveness.heard(0);
        assert_eq!(liveness.check(25_000, false), Check::Ping);
        liveness.asked(40_000);
        assert_eq!(liveness.deadline(true), 48_000);
    }

    #[test]
    fn any_frame_is_a_sign_of_life_and_sleep_is_not_death() {
        let mut liveness = liveness();
        liveness.heard(0);
        assert_eq!(liveness.check(500_000, true), Check::Ping, "slept for long: asks first");
        assert_eq!(liveness.check(900_000, true), Check::Ping, "slept again before the answer was read");
        assert_eq!(liveness.check(908_000, true), Check::Dead, "awake, and nothing came");
        liveness.heard(908_010);
        assert_eq!(liveness.check(912_009, true), Check::Fine);
    }
}
