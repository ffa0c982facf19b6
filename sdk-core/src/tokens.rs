//! When to ask for a token, and how often it may be refused.

use prom_protocol::ErrorCode;

/// Refusals in a row after which a provider's tokens are given up.
const REFUSALS: u32 = 3;

/// The state of the token.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    /// Number of the latest request for a token; an answer to an older one is ignored.
    asked: u32,
    waiting: bool,
    refusals: u32,
    /// `corr` of an AUTH that renews the token of a ready connection.
    renewal: Option<u64>,
    renew_at: Option<u64>,
    expires_at: Option<u64>,
}

impl Tokens {
    /// The number of a new question, unless an earlier one is still open.
    pub(crate) fn ask(&mut self) -> Option<u32> {
        if self.waiting {
            return None;
        }
        self.waiting = true;
        self.asked = self.asked.wrapping_add(1);
        Some(self.asked)
    }

    /// Whether a token is still wanted for request `asked`.
    pub(crate) fn answered(&mut self, asked: u32) -> bool {
        self.waiting && self.asked == asked && std::mem::take(&mut self.waiting)
    }

    /// The shell took too long: the next need asks again.
    pub(crate) fn give_up(&mut self) {
        self.waiting = false;
    }

    /// The connection is gone, and with it what was known of its token.
    pub(crate) fn lost(&mut self) {
        self.renewal = None;
        self.renew_at = None;
        self.expires_at = None;
    }

    /// The hub took a token that lives for so long.
    pub(crate) fn accepted(&mut self, now: u64, expires_in_ms: Option<u64>) {
        self.refusals = 0;
        self.renewal = None;
        self.expires_at = expires_in_ms.map(|ms| now.saturating_add(ms));
        // When a fifth of its life is left, at least five seconds before its end; half way for the very short ones.
        self.renew_at = expires_in_ms.map(|ms| {
            let early = if ms > 10_000 { (ms / 5 * 4).min(ms - 5_000) } else { ms / 2 };
            now.saturating_add(early.max(1))
        });
    }

    /// Counts a refusal at connect; whether it was one too many.
    pub(crate) fn refused(&mut self) -> bool {
        self.refusals += 1;
        self.refusals >= REFUSALS
    }

    /// When a ready connection must ask for the next token.
    pub(crate) fn renew_at(&self) -> u64 {
        self.renew_at.unwrap_or(u64::MAX)
    }

    /// The next token is being asked for or checked: look again if nothing comes of it.
    pub(crate) fn renewing(&mut self, now: u64, patience_ms: u64, auth: Option<u64>) {
        self.renewal = auth;
        self.renew_at = Some(now.saturating_add(patience_ms));
    }

    /// It did not work: again when half of what is left has passed. After the expiry the hub ends the connection.
    pub(crate) fn renewal_failed(&mut self, now: u64) {
        self.renewal = None;
        let left = self.expires_at.map_or(0, |at| at.saturating_sub(now));
        self.renew_at = (left > 0).then(|| now.saturating_add((left / 2).max(1_000)));
    }

    /// Whether `corr` is that of a renewal.
    pub(crate) fn is_renewal(&self, corr: u64) -> bool {
        self.renewal == Some(corr)
    }
}

/// Whether a refusal of AUTH is the token's fault.
pub(crate) fn is_refusal(code: &str) -> bool {
    use ErrorCode::{Forbidden, JwtInvalid, NoToken, TokenExpired, Unauthorized};
    matches!(ErrorCode::from_wire(code), Some(Forbidden | JwtInvalid | NoToken | TokenExpired | Unauthorized))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renews_with_a_fifth_left_and_never_late() {
        for (life, renewed_at) in [(3_600_000, 2_880_000), (20_000, 15_000), (12_000, 7_000), (8_000, 4_000), (1, 1)] {
            let mut tokens = Tokens::default();
            tokens.accepted(0, Some(life));
            assert_eq!(tokens.renew_at(), renewed_at, "{life}");
        }
        let mut tokens = Tokens::default();
        tokens.accepted(0, None);
        assert_eq!(tokens.renew_at(), u64::MAX);
    }

    #[test]
    fn a_failed_renewal_is_tried_again_until_the_expiry() {
        let mut tokens = Tokens::default();
        tokens.accepted(0, Some(100_000));
        tokens.renewal_failed(80_000);
        assert_eq!(tokens.renew_at(), 90_000);
        tokens.renewal_failed(99_500);
        assert_eq!(tokens.renew_at(), 100_500);
        tokens.renewal_failed(100_500);
        assert_eq!(tokens.renew_at(), u64::MAX);
    }

    #[test]
    fn one_question_at_a_time_and_late_answers_are_void() {
        let mut tokens = Tokens::default();
        let first = tokens.ask().unwrap();
        assert_eq!(tokens.ask(), None);
        tokens.give_up();
        let second = tokens.ask().unwrap();
        assert!(!tokens.answered(first));
        assert!(tokens.answered(second));
        assert!(!tokens.answered(second));
    }
}
