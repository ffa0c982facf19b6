//! A connection's publishes: gathered per wake-up, answered in the order they were asked.
//!
//! Those that came faster than they may are held until their time has come. Meanwhile the connection reads on: what else
//! it has to say does not wait for them.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use prom_protocol::{Refusal, ServerFrame, Text, Topic, check_payload, client::Publish, server::encode_published};
use prom_store::Append;
use tokio::time::Instant;

use crate::{
    flow::{
        metrics::Metrics,
        writer::{Answer, Outcomes, Reply, Write},
    },
    quota::{Backlog, Pace, Pass},
};

/// Unanswered publishes of a connection beyond which the hub stops reading from it.
pub(super) const MAX_WAITING: usize = 16 * 1024;
/// Bytes of unanswered publishes beyond which it stops reading too.
const MAX_WAITING_BYTES: usize = 4 * 1024 * 1024;
/// Most of them that are handed on between two turns of others.
const TURN: usize = 512;
/// What one that waits while others are held takes beside its bytes, the names that are there a second time included.
const EACH: usize = size_of::<Waiting>() + size_of::<Held>() + 256;
/// Places for held publishes that are kept when there are none.
const KEPT: usize = 1024;

/// A publish that has not been answered.
#[derive(Debug)]
struct Waiting {
    corr: Option<Box<str>>,
    /// Of the event, or of the answer that refuses it.
    bytes: usize,
    /// Refused before it came to the writer; its answer waits for those before it.
    refused: Option<Refusal>,
}

impl Waiting {
    /// It is refused after all; `all` is what all that wait have.
    fn refuse(&mut self, refused: Refusal, all: &mut usize) {
        let bytes = refused.message().len();
        *all = *all - self.bytes + bytes;
        self.bytes = bytes;
        self.refused = Some(refused);
    }
}

/// A publish whose time has not come.
#[derive(Debug)]
struct Held {
    /// Its number among the connection's publishes, from 0 on.
    number: u64,
    append: Append,
}

/// The publishes of one connection that are not answered.
#[derive(Debug)]
pub(super) struct Publishes {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    /// How many are answered.
    answered: u64,
    batch: Vec<Append>,
    /// A batch the writer had no room for.
    pub(super) held_back: Option<Write>,
    /// The last topic published to, so that a stream to one topic shares its name.
    last_topic: Option<Topic>,
    /// How fast they may come, and what may wait for its time. None: not known who they are of.
    limits: Option<(Pace, Backlog)>,
    /// They came too fast: until then none passes.
    paused: Option<Instant>,
    /// Those whose time has not come. From the first of them on, each of `waiting` that is not refused is one of them, in
    /// this order.
    held: VecDeque<Held>,
    metrics: Arc<Metrics>,
}

impl Publishes {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            waiting: VecDeque::new(),
            bytes: 0,
            answered: 0,
            batch: Vec::new(),
            held_back: None,
            last_topic: None,
            limits: None,
            paused: None,
            held: VecDeque::new(),
            metrics,
        }
    }

    /// It is known how fast the connection may publish; or it has become another's.
    pub(super) fn set_limits(&mut self, pace: Pace, backlog: Backlog) {
        self.limits = Some((pace, backlog));
        self.last_topic = None;
        self.count_held();
    }

    /// Whether the connection may read on.
    pub(super) fn have_room(&self) -> bool {
        self.held_back.is_none()
            && self.waiting.len() < MAX_WAITING
            && self.bytes < MAX_WAITING_BYTES
            && !(self.paused.is_some() && self.limits.as_ref().is_some_and(|(_, backlog)| backlog.is_full()))
    }

    /// Whether some are held until their time has come, or until the writer has room.
    pub(super) fn has_more(&self) -> bool {
        !self.held.is_empty() || self.held_back.is_some()
    }

    /// When to [go on](Self::go_on): not while those before them wait for the writer.
    pub(super) fn next_at(&self) -> Option<Instant> {
        self.paused.filter(|_| self.held_back.is_none())
    }

    /// Whether everything is answered.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes on a publish of the subject `by`. `allowed` is asked whether it may be on its topic, and told whether that is
    /// the last one's.
    pub(super) fn add(
        &mut self,
        publish: &Publish<'_>,
        corr: Option<&Text<'_>>,
        by: Option<&str>,
        allowed: impl FnOnce(&Topic, bool) -> Result<(), Refusal>,
    ) {
        match self.append(publish, by, allowed) {
            Ok(append) => {
                let bytes = append.body.len();
                self.bytes += bytes;
                self.waiting.push_back(Waiting { corr: corr.map(|corr| corr.as_str().into()), bytes, refused: None });
                let number = self.answered + self.waiting.len() as u64 - 1;
                let publish = Held { number, append };
                if self.paused.is_none() && self.held.is_empty() {
                    self.pass(publish);
                } else {
                    self.held.push_back(publish);
                }
                self.count_held();
            }
            Err(refused) => self.refuse(corr, refused),
        }
    }

    /// Takes on a publish that cannot be carried out, to be answered in its turn.
    pub(super) fn refuse(&mut self, corr: Option<&Text<'_>>, refusal: Refusal) {
        let corr = corr.map(|corr| corr.as_str().into());
        let bytes = refusal.message().len();
        self.bytes += bytes;
        self.waiting.push_back(Waiting { corr, bytes, refused: Some(refusal) });
        self.count_held();
    }

    fn append(
        &mut self,
        publish: &Publish<'_>,
        by: Option<&str>,
        allowed: impl FnOnce(&Topic, bool) -> Result<(), Refusal>,
    ) -> Result<Append, Refusal> {
        // What is refused, for whatever reason, is not the last one: it is asked for anew, as it may never come to be.
        let last = self.last_topic.take().filter(|topic| topic.as_str() == publish.topic.as_str());
        let same = last.is_some();
        let topic = last.map_or_else(|| Topic::new(&publish.topic), Ok)?;
        allowed(&topic, same)?;
        let payload = publish.payload.get();
        check_payload(payload)?;
        let append = Append::published_by(topic, &publish.options, by, payload);
        self.last_topic = Some(append.topic.clone());
        Ok(append)
    }

    /// The time of those that are held may have come: passes on what may pass. `allowed` is asked once more, as the token and
    /// the topics may be others now.
    pub(super) fn go_on(&mut self, allowed: impl Fn(&Topic) -> Result<(), Refusal>) {
        self.paused = None;
        for _ in 0..TURN {
            let Some(publish) = self.held.pop_front() else { break };
            match allowed(&publish.append.topic) {
                Ok(()) => self.pass(publish),
                Err(refusal) => self.refuse_one(publish.number, refusal),
            }
            if self.paused.is_some() {
                break;
            }
        }
        if self.held.is_empty() {
            self.held.shrink_to(KEPT);
        } else if self.paused.is_none() {
            // The rest is for the next turn.
            self.paused = Some(Instant::now());
        }
        self.count_held();
    }

    /// Lets go of what is held, without an answer, and of what came after it.
    pub(super) fn drop_held(&mut self) {
        let Some(first) = self.held.front() else { return };
        let kept = usize::try_from(first.number - self.answered).unwrap_or(usize::MAX);
        self.bytes -= self.waiting.drain(kept..).map(|waiting| waiting.bytes).sum::<usize>();
        self.held = VecDeque::new();
        self.count_held();
    }

    /// Hands on a publish if its time has come, refuses it, or puts it back at the front of those that are held.
    fn pass(&mut self, publish: Held) {
        let pass = match &mut self.limits {
            Some((pace, _)) => pace.take(&publish.append.topic, publish.append.body.len()),
            None => Ok(Pass::Taken(Duration::ZERO)),
        };
        let pause = match pass {
            Ok(Pass::Taken(pause)) => {
                self.batch.push(publish.append);
                pause
            }
            Ok(Pass::Later(wait)) => {
                self.held.push_front(publish);
                wait
            }
            Err(refusal) => return self.refuse_one(publish.number, refusal),
        };
        if !pause.is_zero() {
            self.paused = Instant::now().checked_add(pause);
        }
    }

    /// Counts all that waits for those that are held, the refused among them and what is at the writer too.
    fn count_held(&mut self) {
        let Some((_, backlog)) = &mut self.limits else { return };
        let bytes = if self.held.is_empty() { 0 } else { self.bytes + self.waiting.len() * EACH };
        if bytes != backlog.bytes() {
            backlog.set(bytes);
        }
    }

    /// Refuses the publish of this number, which is not answered; it is answered in its turn.
    fn refuse_one(&mut self, number: u64, refused: Refusal) {
        // What has not come to be is asked for anew.
        self.last_topic = None;
        let at = usize::try_from(number - self.answered).unwrap_or(usize::MAX);
        if let Some(waiting) = self.waiting.get_mut(at) {
            waiting.refuse(refused, &mut self.bytes);
        }
    }

    /// Refuses the batch of `count` that was held back, behind which are only those that are held.
    pub(super) fn refuse_batch(&mut self, count: usize, refused: &Refusal) {
        self.last_topic = None;
        let open = self.waiting.iter_mut().rev().filter(|waiting| waiting.refused.is_none());
        for waiting in open.skip(self.held.len()).take(count) {
            waiting.refuse(refused.clone(), &mut self.bytes);
        }
    }

    /// What was gathered since the last call, for the writer.
    pub(super) fn take_batch(&mut self, answers: &Arc<dyn Answer>) -> Option<Write> {
        if self.batch.is_empty() {
            return None;
        }
        let appends = std::mem::take(&mut self.batch);
        Some(Write { appends, cursors: Vec::new(), reply: Reply::Queue(Arc::clone(answers)) })
    }

    /// Matches outcomes, which come in the order of the publishes, with what waits, and encodes the answers.
    pub(super) fn answer(&mut self, outcomes: Outcomes, mut out: impl FnMut(Vec<u8>)) {
        for outcome in outcomes {
            self.answer_refused(&mut out);
            let Some(waiting) = self.waiting.pop_front() else { return };
            self.answered += 1;
            self.bytes -= waiting.bytes;
            if let Err(refused) = &outcome {
                self.metrics.refused(refused.code());
            }
            out(encode(waiting.corr.as_deref(), outcome.as_ref().map(|a| (&*a.id, a.seq, a.duplicate))));
        }
        self.answer_refused(&mut out);
        self.count_held();
    }

    /// Answers the refused publishes at the front of the queue, up to the first that waits for the writer.
    pub(super) fn answer_refused(&mut self, out: &mut impl FnMut(Vec<u8>)) {
        while let Some(Waiting { refused: Some(_), .. }) = self.waiting.front() {
            let Some(Waiting { corr, refused: Some(refused), .. }) = self.waiting.pop_front() else { return };
            self.answered += 1;
            self.bytes -= refused.message().len();
            self.metrics.refused(refused.code());
            out(encode(corr.as_deref(), Err(&refused)));
        }
    }
}

fn encode(corr: Option<&str>, outcome: Result<(&str, u64, bool), &Refusal>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(96);
    match outcome {
        Ok((id, seq, duplicate)) => encode_published(&mut bytes, corr, id, seq, duplicate),
        Err(refused) => ServerFrame::refused(refused, corr.map(Text::from)).encode(&mut bytes),
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use prom_protocol::{ClientFrame, ErrorCode, TopicOrPattern, client};
    use prom_store::Appended;

    use super::*;
    use crate::{
        groups::ConsumerHandle,
        quota::{OnExcess, Per, Quotas, Rate, Shares},
    };

    fn add(publishes: &mut Publishes, corr: &str, topic: &str) {
        let frame = format!(r#"{{"op":"PUBLISH","corr":"{corr}","topic":"{topic}","payload":1}}"#);
        take_on(publishes, &frame, |topic, _| match topic.as_str() {
            "forbidden" => Err(Refusal::new(ErrorCode::Forbidden, "no")),
            _ => Ok(()),
        });
    }

    fn take_on(publishes: &mut Publishes, frame: &str, allowed: impl FnOnce(&Topic, bool) -> Result<(), Refusal>) {
        let request = client::parse(frame).unwrap_or_else(|bad| panic!("{bad:?}"));
        let ClientFrame::Publish(publish) = request.frame else { panic!("a PUBLISH") };
        publishes.add(&publish, request.corr.as_ref(), None, allowed);
    }

    fn publishes(rates: Vec<Rate>) -> Publishes {
        let quotas = Quotas::new(Shares { publish: rates, ..Shares::default() });
        of(&quotas, 1)
    }

    fn of(quotas: &Quotas, subject: u64) -> Publishes {
        let mut publishes = Publishes::new(Arc::default());
        let share = quotas.share(subject).unwrap();
        publishes.set_limits(quotas.pace(quotas.whose(subject, Ipv4Addr::LOCALHOST.into())), quotas.backlog(&share));
        publishes
    }

    fn counted(publishes: &Publishes) -> usize {
        publishes.limits.as_ref().map_or(0, |(_, backlog)| backlog.bytes())
    }

    /// One a second, one at once.
    fn one_a_second(topics: &str, on_excess: OnExcess) -> Rate {
        Rate {
            topics: TopicOrPattern::new(topics).unwrap(),
            per: Per::Subject,
            events: Some(1),
            bytes: None,
            burst: Duration::from_secs(1),
            on_excess,
        }
    }

    fn answers_to(publishes: &mut Publishes, outcomes: Outcomes) -> Vec<String> {
        let mut answers = Vec::new();
        publishes.answer(outcomes, |bytes| answers.push(String::from_utf8(bytes).unwrap()));
        answers
    }

    fn committed(seq: u64) -> Result<Appended, Refusal> {
        Ok(Appended { id: "x".into(), seq, duplicate: false })
    }

    fn assert_answers(answers: &[String], expected: &[(&str, &str)]) {
        assert_eq!(answers.len(), expected.len(), "{answers:?}");
        for (answer, (what, corr)) in answers.iter().zip(expected) {
            assert!(answer.contains(what) && answer.contains(&format!(r#""corr":"{corr}""#)), "{answer}");
        }
    }

    #[test]
    fn a_topic_on_which_nothing_came_to_be_is_asked_for_again() {
        // It was asked for once and then taken for made, however long it was not: more topics than one may make.
        let mut publishes = publishes(vec![one_a_second("b", OnExcess::Refuse)]);
        let mut asks = Vec::new();
        let mut publish = |publishes: &mut Publishes, topic: &str, payload: &str| {
            let frame = format!(r#"{{"op":"PUBLISH","topic":"{topic}","payload":{payload}}}"#);
            take_on(publishes, &frame, |_, same| {
                asks.push(same);
                Ok(())
            });
        };
        publish(&mut publishes, "a", r#""\ud800""#);
        publish(&mut publishes, "a", "1");
        publish(&mut publishes, "a", "1");
        publishes.refuse_batch(1, &Refusal::new(ErrorCode::Overloaded, "full"));
        publish(&mut publishes, "a", "1");
        publish(&mut publishes, "b", "1");
        // Too fast.
        publish(&mut publishes, "b", "1");
        publish(&mut publishes, "b", "1");
        assert_eq!(asks, [false, false, true, false, false, true, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_too_fast_is_held_and_answered_in_its_turn() {
        let rates = vec![one_a_second("slow", OnExcess::Delay), one_a_second("few", OnExcess::Refuse)];
        let mut publishes = publishes(rates);
        for (corr, topic) in ["slow", "slow", "slow", "forbidden", "few", "few", "free"].into_iter().enumerate() {
            add(&mut publishes, &corr.to_string(), topic);
        }
        // One was there, and one was owed.
        assert_eq!(publishes.batch.len(), 2);
        assert_eq!(publishes.held.len(), 4);
        assert!(publishes.have_room());
        assert_eq!(counted(&publishes), publishes.bytes + 7 * EACH, "the refused one and those at the writer too");
        let due = publishes.next_at().unwrap() - Instant::now();
        assert!(due > Duration::from_millis(990) && due <= Duration::from_secs(1), "{due:?}");
        tokio::time::advance(due).await;
        publishes.go_on(|_| Ok(()));
        assert_eq!((publishes.batch.len(), publishes.held.len()), (3, 3), "until the third is paid for");
        tokio::time::advance(Duration::from_secs(1)).await;
        publishes.go_on(|topic| match topic.as_str() {
            "free" => Err(Refusal::new(ErrorCode::RateLimited, "too many topics")),
            _ => Ok(()),
        });
        assert_eq!((publishes.batch.len(), publishes.held.len(), counted(&publishes)), (4, 0, 0));
        let answers = answers_to(&mut publishes, (1..=4).map(committed).collect());
        let limited = "rate_limited";
        assert_answers(
            &answers,
            &[("OK", "0"), ("OK", "1"), ("OK", "2"), ("forbidden", "3"), ("OK", "4"), (limited, "5"), (limited, "6")],
        );
        assert!(publishes.is_empty() && publishes.bytes == 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_slowed_is_not_read_while_its_subject_holds_too_much() {
        let quotas = Quotas::new(Shares { publish: vec![one_a_second("a", OnExcess::Delay)], ..Shares::default() });
        let (mut one, mut other) = (of(&quotas, 1), of(&quotas, 2));
        for _ in 0..3 {
            add(&mut one, "1", "a");
            add(&mut other, "1", "a");
        }
        let mut greedy = quotas.backlog(&quotas.share(1).unwrap());
        greedy.set(64 * 1024 * 1024 / 4 - counted(&one));
        assert!(!one.have_room());
        assert!(other.have_room(), "another's");
        one.drop_held();
        assert!(one.have_room() && !one.has_more() && counted(&one) == 0);
        // Those that were passed on before are answered, the one that was dropped is not.
        assert_answers(&answers_to(&mut one, vec![committed(1), committed(2)]), &[("OK", "1"), ("OK", "1")]);
        assert!(one.is_empty() && one.bytes == 0);
        // Nothing of its own waits, but what it sends now would.
        greedy.set(64 * 1024 * 1024 / 4);
        assert!(one.next_at().is_some() && !one.have_room());
        tokio::time::advance(Duration::from_secs(2)).await;
        one.go_on(|_| Ok(()));
        assert!(one.have_room());
    }

    #[tokio::test(start_paused = true)]
    async fn answers_behind_one_that_is_held_are_bounded_too() {
        // They counted for nothing: 16,384 of them, each some hundred bytes, for as long as one before them was held.
        let mut publishes = publishes(vec![one_a_second("a", OnExcess::Delay)]);
        let message = "m".repeat(1000);
        for _ in 0..3 {
            add(&mut publishes, "1", "a");
        }
        let mut refused = 0;
        while publishes.have_room() {
            publishes.refuse(None, Refusal::new(ErrorCode::Forbidden, message.clone()));
            refused += 1;
        }
        assert!((4000..=4 * 1024 * 1024 / 1000 + 1).contains(&refused), "{refused}");
        assert_eq!(counted(&publishes), publishes.bytes + (3 + refused) * EACH);
        tokio::time::advance(Duration::from_secs(2)).await;
        publishes.go_on(|_| Ok(()));
        assert_eq!(answers_to(&mut publishes, (1..=3).map(committed).collect()).len(), 3 + refused);
        assert_eq!((publishes.bytes, counted(&publishes)), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_that_finds_no_room_is_refused_before_those_that_are_held() {
        let (handle, _messages) = ConsumerHandle::new();
        let handle: Arc<dyn Answer> = Arc::new(handle);
        let mut publishes = publishes(vec![one_a_second("a", OnExcess::Delay)]);
        for corr in ["1", "2", "3"] {
            add(&mut publishes, corr, "a");
        }
        publishes.held_back = publishes.take_batch(&handle);
        assert_eq!(publishes.held_back.as_ref().map(|write| write.appends.len()), Some(2));
        assert_eq!(publishes.next_at(), None, "not before those before it");
        publishes.held_back = None;
        publishes.refuse_batch(2, &Refusal::new(ErrorCode::Overloaded, "full"));
        tokio::time::advance(Duration::from_secs(2)).await;
        publishes.go_on(|_| Ok(()));
        let answers = answers_to(&mut publishes, vec![committed(1)]);
        assert_answers(&answers, &[("overloaded", "1"), ("overloaded", "2"), ("OK", "3")]);
    }

    #[test]
    fn a_batch_that_finds_no_room_is_refused_behind_those_before_it() {
        // The refusals once went to the oldest publishes, which were committed later; the last ones got their OK.
        let (handle, _messages) = ConsumerHandle::new();
        let handle: Arc<dyn Answer> = Arc::new(handle);
        let mut publishes = publishes(Vec::new());
        add(&mut publishes, "1", "a");
        add(&mut publishes, "2", "a");
        assert_eq!(publishes.take_batch(&handle).map(|write| write.appends.len()), Some(2));
        add(&mut publishes, "3", "forbidden");
        add(&mut publishes, "4", "a");
        add(&mut publishes, "5", "a");
        let parked = publishes.take_batch(&handle).unwrap();
        let refused = Refusal::new(ErrorCode::Overloaded, "full");
        publishes.refuse_batch(parked.appends.len(), &refused);
        assert!(answers_to(&mut publishes, Vec::new()).is_empty(), "those before are not answered yet");
        let answers = answers_to(&mut publishes, vec![committed(1), committed(2)]);
        let overloaded = "overloaded";
        assert_answers(&answers, &[("OK", "1"), ("OK", "2"), ("forbidden", "3"), (overloaded, "4"), (overloaded, "5")]);
        assert!(publishes.is_empty() && publishes.bytes == 0 && publishes.have_room());
    }
}
