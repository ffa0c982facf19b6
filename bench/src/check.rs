//! The checks: does the hub keep what it promises about answers and events?

use std::collections::BTreeSet;

use serde::Serialize;

/// Most details that are kept.
const DETAILS: usize = 5;

/// What was found wrong. Nothing, if all counts are zero.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Findings {
    /// Publishes without an answer, gaps in the seqs, events that were not delivered.
    pub lost: u64,
    /// Publishes answered twice, seqs given twice, events delivered a second time as if for the first.
    pub doubled: u64,
    /// Answers and events that came after a later one.
    pub out_of_order: u64,
    /// Events that differ from what was published, and answers that no request was sent for.
    pub wrong: u64,
    /// The first five of these, for people.
    pub details: Vec<String>,
}

impl Findings {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.doubled == 0 && self.out_of_order == 0 && self.wrong == 0
    }

    pub(crate) fn lost(&mut self, count: u64, detail: impl FnOnce() -> String) {
        if count > 0 {
            self.lost += count;
            self.detail(detail);
        }
    }

    pub(crate) fn doubled(&mut self, detail: impl FnOnce() -> String) {
        self.doubled += 1;
        self.detail(detail);
    }

    pub(crate) fn out_of_order(&mut self, detail: impl FnOnce() -> String) {
        self.out_of_order += 1;
        self.detail(detail);
    }

    pub(crate) fn wrong(&mut self, detail: impl FnOnce() -> String) {
        self.wrong += 1;
        self.detail(detail);
    }

    fn detail(&mut self, detail: impl FnOnce() -> String) {
        if self.details.len() < DETAILS {
            self.details.push(detail());
        }
    }

    /// Adds what another check found.
    pub(crate) fn merge(&mut self, other: Findings) {
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.out_of_order += other.out_of_order;
        self.wrong += other.wrong;
        let room = DETAILS.saturating_sub(self.details.len());
        self.details.extend(other.details.into_iter().take(room));
    }
}

/// The answers of one connection: one for each publish, in the order of the publishes.
#[derive(Debug, Default)]
pub(crate) struct Order {
    /// Publishes that were sent, numbered from 0.
    pub(crate) asked: u64,
    /// The publish whose answer must come next.
    next: u64,
    /// Publishes before `next` whose answer has not come.
    missing: BTreeSet<u64>,
}

impl Order {
    /// For `asked` publishes that will all be sent.
    pub(crate) fn of(asked: u64) -> Self {
        Self { asked, ..Self::default() }
    }

    /// Publishes whose answer may still come in its turn.
    pub(crate) fn in_flight(&self) -> u64 {
        self.asked - self.next
    }

    /// Takes an answer to publish `number`. Returns `false` for a second answer and for one to no publish.
    pub(crate) fn answered(&mut self, number: u64, findings: &mut Findings) -> bool {
        if number == self.next && number < self.asked {
            self.next += 1;
            return true;
        }
        if number >= self.asked {
            findings.wrong(|| format!("an answer to publish {number}, of {} that were asked", self.asked));
            return false;
        }
        if number > self.next {
            // One by one: no more than the window is ever passed over.
            self.missing.extend(self.next..number);
            self.next = number + 1;
            return true;
        }
        if self.missing.remove(&number) {
            findings.out_of_order(|| format!("the answer to publish {number} came after that to a later one"));
            return true;
        }
        findings.doubled(|| format!("publish {number} was answered twice"));
        false
    }

    /// Counts what was never answered.
    pub(crate) fn finish(&self, findings: &mut Findings) {
        let lost = self.missing.len() as u64 + self.in_flight();
        let first = self.missing.first().copied().unwrap_or(self.next);
        findings.lost(lost, || format!("{lost} publishes were not answered, publish {first} first"));
    }
}

/// The seqs of one topic over all connections: 1, 2, 3… each given once.
#[derive(Debug, Default)]
pub(crate) struct Seqs {
    seen: Vec<u64>,
    count: u64,
    max: u64,
}

impl Seqs {
    /// Takes a seq. `most` is the highest there can be, so that nonsense does not cost memory.
    pub(crate) fn add(&mut self, seq: u64, most: u64, findings: &mut Findings) {
        if seq == 0 || seq > most {
            findings.wrong(|| format!("seq {seq} in a topic of at most {most} events"));
            return;
        }
        let (word, bit) = ((seq / 64) as usize, 1 << (seq % 64));
        if word >= self.seen.len() {
            self.seen.resize((word + 1).next_power_of_two(), 0);
        }
        if self.seen[word] & bit != 0 {
            findings.doubled(|| format!("seq {seq} was given twice"));
            return;
        }
        self.seen[word] |= bit;
        self.count += 1;
        self.max = self.max.max(seq);
    }

    /// Reports the seqs up to the highest that were never given.
    pub(crate) fn finish(&self, findings: &mut Findings) {
        let gaps = self.max - self.count;
        findings.lost(gaps, || {
            let first = (1..=self.max).find(|seq| self.seen[(seq / 64) as usize] & (1 << (seq % 64)) == 0);
            format!("{gaps} seqs up to {} were given to nobody, seq {} first", self.max, first.unwrap_or(0))
        });
    }
}

/// What was acknowledged of a topic against what was delivered of it, by seq.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// The number of the publish, plus one; 0 for none.
    acked: Vec<u32>,
    delivered: Vec<u32>,
}

impl Ledger {
    fn put(list: &mut Vec<u32>, seq: u64, number: u64) -> Option<u32> {
        let at = usize::try_from(seq).ok()?.checked_sub(1)?;
        if at >= list.len() {
            list.resize((at + 1).next_power_of_two().max(1024), 0);
        }
        Some(std::mem::replace(&mut list[at], u32::try_from(number).ok()? + 1))
    }

    /// Publish `number` got this seq, at most `most`.
    pub(crate) fn acked(&mut self, seq: u64, number: u64, most: u64, findings: &mut Findings) {
        let before = if seq > most { None } else { Self::put(&mut self.acked, seq, number) };
        match before {
            Some(0) => {}
            Some(_) => findings.doubled(|| format!("seq {seq} was given twice")),
            None => findings.wrong(|| format!("seq {seq} for publish {number}, in a topic of at most {most} events")),
        }
    }

    /// Event `seq` came for the first time and carries publish `number`. `true`: it counts.
    pub(crate) fn delivered(&mut self, seq: u64, number: u64, most: u64, findings: &mut Findings) -> bool {
        let before = if seq > most { None } else { Self::put(&mut self.delivered, seq, number) };
        match before {
            Some(0) => return true,
            Some(_) => findings.doubled(|| format!("event {seq} was delivered twice as a first delivery")),
            None => findings.wrong(|| format!("event {seq} of a topic of at most {most} events")),
        }
        false
    }

    /// Whether it came before.
    pub(crate) fn has(&self, seq: u64) -> bool {
        seq > 0 && self.delivered.get(seq as usize - 1).is_some_and(|number| *number != 0)
    }

    /// Compares the two.
    pub(crate) fn finish(&self, topic: &str, findings: &mut Findings) {
        let len = self.acked.len().max(self.delivered.len());
        for at in 0..len {
            let acked = self.acked.get(at).copied().unwrap_or(0);
            let delivered = self.delivered.get(at).copied().unwrap_or(0);
            let seq = at + 1;
            if acked != 0 && delivered == 0 {
                findings.lost(1, || format!("event {seq} of {topic} was acknowledged and not delivered"));
            } else if acked != delivered {
                findings.wrong(|| {
                    format!(
                        "event {seq} of {topic} carries publish {}, not {}",
                        i64::from(delivered) - 1,
                        i64::from(acked) - 1
                    )
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(asked: u64, answers: &[u64]) -> Findings {
        let mut findings = Findings::default();
        let mut order = Order::of(asked);
        for number in answers {
            order.answered(*number, &mut findings);
        }
        order.finish(&mut findings);
        findings
    }

    fn counts(findings: &Findings) -> (u64, u64, u64, u64) {
        (findings.lost, findings.doubled, findings.out_of_order, findings.wrong)
    }

    #[test]
    fn answers_are_each_once_and_in_order() {
        assert!(order(3, &[0, 1, 2]).is_clean());
        assert_eq!(counts(&order(3, &[0, 2])), (1, 0, 0, 0));
        assert_eq!(counts(&order(3, &[0, 1])), (1, 0, 0, 0));
        assert_eq!(counts(&order(3, &[0, 1, 1, 2])), (0, 1, 0, 0));
        assert_eq!(counts(&order(3, &[0, 2, 1])), (0, 0, 1, 0));
        assert_eq!(counts(&order(3, &[2, 0, 0])), (1, 1, 1, 0));
        assert_eq!(counts(&order(1, &[0, 1])), (0, 0, 0, 1));
    }

    #[test]
    fn a_passed_over_answer_does_not_hold_up_the_window() {
        let mut findings = Findings::default();
        let mut order = Order::of(10);
        assert!(order.answered(9, &mut findings));
        assert_eq!(order.in_flight(), 0);
    }

    #[test]
    fn seqs_are_without_gaps_and_doubles() {
        let run = |given: &[u64]| {
            let mut findings = Findings::default();
            let mut seqs = Seqs::default();
            given.iter().for_each(|seq| seqs.add(*seq, 200, &mut findings));
            seqs.finish(&mut findings);
            counts(&findings)
        };
        assert_eq!(run(&[]), (0, 0, 0, 0));
        assert_eq!(run(&(1..=200).rev().collect::<Vec<_>>()), (0, 0, 0, 0));
        assert_eq!(run(&[1, 2, 5]), (2, 0, 0, 0));
        assert_eq!(run(&[1, 2, 2]), (0, 1, 0, 0));
        assert_eq!(run(&[0, 1, 201, u64::MAX]), (0, 0, 0, 3));
    }

    #[test]
    fn what_was_acknowledged_is_what_was_delivered() {
        let run = |acked: &[(u64, u64)], delivered: &[(u64, u64)]| {
            let mut findings = Findings::default();
            let mut ledger = Ledger::default();
            acked.iter().for_each(|(seq, number)| ledger.acked(*seq, *number, 10, &mut findings));
            for (seq, number) in delivered {
                ledger.delivered(*seq, *number, 10, &mut findings);
            }
            ledger.finish("t", &mut findings);
            counts(&findings)
        };
        assert_eq!(run(&[(1, 0), (2, 1)], &[(2, 1), (1, 0)]), (0, 0, 0, 0));
        assert_eq!(run(&[(1, 0), (2, 1)], &[(1, 0)]), (1, 0, 0, 0));
        assert_eq!(run(&[(1, 0)], &[(1, 0), (1, 0)]), (0, 1, 0, 0));
        assert_eq!(run(&[(1, 0)], &[(1, 1)]), (0, 0, 0, 1));
        assert_eq!(run(&[(1, 0)], &[(1, 0), (2, 1)]), (0, 0, 0, 1));
        assert_eq!(run(&[(1, 0), (1, 1)], &[(1, 1)]), (0, 1, 0, 0));
        assert_eq!(run(&[(0, 0), (11, 0)], &[(11, 0)]), (0, 0, 0, 3));
    }

    #[test]
    fn details_are_few_and_counts_are_whole() {
        let mut findings = order(100, &[99, 99, 99, 99, 99, 99, 99, 99]);
        assert_eq!((findings.lost, findings.doubled, findings.details.len()), (99, 7, 5));
        findings.merge(order(2, &[0]));
        assert_eq!((findings.lost, findings.details.len()), (100, 5));
    }
}
