//! A connection's publishes: gathered per wake-up, answered in the order they were asked.

use std::{collections::VecDeque, sync::Arc};

use prom_protocol::{Refusal, ServerFrame, Text, Topic, check_payload, client::Publish, server::encode_published};
use prom_store::Append;

use crate::flow::{
    metrics::Metrics,
    writer::{Answer, Outcomes, Reply, Write},
};

/// Unanswered publishes of a connection beyond which the hub stops reading from it.
pub(super) const MAX_WAITING: usize = 16 * 1024;
/// Bytes of unanswered publishes beyond which it stops reading too.
const MAX_WAITING_BYTES: usize = 4 * 1024 * 1024;

/// A publish that has not been answered.
#[derive(Debug)]
struct Waiting {
    corr: Option<Box<str>>,
    bytes: usize,
    /// Refused before it came to the writer; its answer waits for those before it.
    refused: Option<Refusal>,
}

/// What is asked of a publish.
#[derive(Debug)]
pub(super) enum Ask<'a> {
    /// Whether it may be on this topic, and whether that is the last one's.
    Topic(&'a Topic, bool),
    /// Whether an event of so many bytes may come now; asked last.
    Bytes(usize),
}

/// The publishes of one connection that are not answered.
#[derive(Debug)]
pub(super) struct Publishes {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    batch: Vec<Append>,
    /// A batch the writer had no room for.
    pub(super) held_back: Option<Write>,
    /// The last topic published to, so that a stream to one topic shares its name.
    last_topic: Option<Topic>,
    metrics: Arc<Metrics>,
}

impl Publishes {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { waiting: VecDeque::new(), bytes: 0, batch: Vec::new(), held_back: None, last_topic: None, metrics }
    }

    /// Whether the connection may read on.
    pub(super) fn have_room(&self) -> bool {
        self.held_back.is_none() && self.waiting.len() < MAX_WAITING && self.bytes < MAX_WAITING_BYTES
    }

    /// Whether everything is answered.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The next topic counts as another one than the last.
    pub(super) fn forget_topic(&mut self) {
        self.last_topic = None;
    }

    /// Takes on a publish of the subject `by`. `allowed` is asked once the topic is known, and once all is.
    pub(super) fn add(
        &mut self,
        publish: &Publish<'_>,
        corr: Option<&Text<'_>>,
        by: Option<&str>,
        allowed: impl FnMut(Ask<'_>) -> Result<(), Refusal>,
    ) {
        let corr = corr.map(|corr| corr.as_str().into());
        match self.append(publish, by, allowed) {
            Ok(append) => {
                let bytes = append.body.len();
                self.bytes += bytes;
                self.waiting.push_back(Waiting { corr, bytes, refused: None });
                self.batch.push(append);
            }
            Err(refused) => self.waiting.push_back(Waiting { corr, bytes: 0, refused: Some(refused) }),
        }
    }

    /// Takes on a publish that cannot be carried out, to be answered in its turn.
    pub(super) fn refuse(&mut self, corr: Option<&Text<'_>>, refusal: Refusal) {
        let corr = corr.map(|corr| corr.as_str().into());
        self.waiting.push_back(Waiting { corr, bytes: 0, refused: Some(refusal) });
    }

    /// Refuses the last `count` publishes that are not refused yet; they are answered in their turn.
    pub(super) fn refuse_last(&mut self, count: usize, refused: &Refusal) {
        // What has not come to be is asked for anew.
        self.last_topic = None;
        for waiting in self.waiting.iter_mut().rev().filter(|waiting| waiting.refused.is_none()).take(count) {
            self.bytes -= std::mem::take(&mut waiting.bytes);
            waiting.refused = Some(refused.clone());
        }
    }

    fn append(
        &mut self,
        publish: &Publish<'_>,
        by: Option<&str>,
        mut allowed: impl FnMut(Ask<'_>) -> Result<(), Refusal>,
    ) -> Result<Append, Refusal> {
        // What is refused, for whatever reason, is not the last one: it is asked for anew, as it may never come to be.
        let last = self.last_topic.take().filter(|topic| topic.as_str() == publish.topic.as_str());
        let same = last.is_some();
        let topic = last.map_or_else(|| Topic::new(&publish.topic), Ok)?;
        allowed(Ask::Topic(&topic, same))?;
        let payload = publish.payload.get();
        check_payload(payload)?;
        let append = Append::published_by(topic, &publish.options, by, payload);
        allowed(Ask::Bytes(append.body.len()))?;
        self.last_topic = Some(append.topic.clone());
        Ok(append)
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
            self.bytes -= waiting.bytes;
            if let Err(refused) = &outcome {
                self.metrics.refused(refused.code());
            }
            out(encode(waiting.corr.as_deref(), outcome.as_ref().map(|a| (&*a.id, a.seq, a.duplicate))));
        }
        self.answer_refused(&mut out);
    }

    /// Answers the refused publishes at the front of the queue, up to the first that waits for the writer.
    pub(super) fn answer_refused(&mut self, out: &mut impl FnMut(Vec<u8>)) {
        while let Some(Waiting { refused: Some(_), .. }) = self.waiting.front() {
            let Some(Waiting { corr, refused: Some(refused), .. }) = self.waiting.pop_front() else { return };
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
    use prom_protocol::{ClientFrame, ErrorCode, client};

    use prom_store::Appended;

    use super::*;
    use crate::groups::ConsumerHandle;

    fn add(publishes: &mut Publishes, corr: &str, topic: &str) {
        let frame = format!(r#"{{"op":"PUBLISH","corr":"{corr}","topic":"{topic}","payload":1}}"#);
        let allowed = |ask: Ask<'_>| match ask {
            Ask::Topic(topic, _) if topic.as_str() == "forbidden" => Err(Refusal::new(ErrorCode::Forbidden, "no")),
            _ => Ok(()),
        };
        take_on(publishes, &frame, allowed);
    }

    fn take_on(publishes: &mut Publishes, frame: &str, allowed: impl FnMut(Ask<'_>) -> Result<(), Refusal>) {
        let request = client::parse(frame).unwrap_or_else(|bad| panic!("{bad:?}"));
        let ClientFrame::Publish(publish) = request.frame else { panic!("a PUBLISH") };
        publishes.add(&publish, request.corr.as_ref(), None, allowed);
    }

    #[test]
    fn a_topic_on_which_nothing_came_to_be_is_asked_for_again() {
        // It was asked for once and then taken for made, however long it was not: more topics than one may make.
        let mut publishes = Publishes::new(Arc::default());
        let mut asks = Vec::new();
        let mut publish = |publishes: &mut Publishes, payload: &str, passes: bool| {
            let frame = format!(r#"{{"op":"PUBLISH","topic":"a","payload":{payload}}}"#);
            take_on(publishes, &frame, |ask| {
                match ask {
                    Ask::Topic(_, same) => asks.push(same),
                    Ask::Bytes(_) if !passes => return Err(Refusal::new(ErrorCode::RateLimited, "too fast")),
                    Ask::Bytes(_) => {}
                }
                Ok(())
            });
        };
        publish(&mut publishes, r#""\ud800""#, true);
        publish(&mut publishes, "1", false);
        publish(&mut publishes, "1", true);
        publish(&mut publishes, "1", true);
        publishes.refuse_last(1, &Refusal::new(ErrorCode::Overloaded, "full"));
        publish(&mut publishes, "1", true);
        assert_eq!(asks, [false, false, false, true, false]);
    }

    #[test]
    fn a_batch_that_finds_no_room_is_refused_behind_those_before_it() {
        // The refusals once went to the oldest publishes, which were committed later; the last ones got their OK.
        let (handle, _messages) = ConsumerHandle::new();
        let handle: Arc<dyn Answer> = Arc::new(handle);
        let mut publishes = Publishes::new(Arc::default());
        add(&mut publishes, "1", "a");
        add(&mut publishes, "2", "a");
        assert_eq!(publishes.take_batch(&handle).map(|write| write.appends.len()), Some(2));
        add(&mut publishes, "3", "forbidden");
        add(&mut publishes, "4", "a");
        add(&mut publishes, "5", "a");
        let parked = publishes.take_batch(&handle).unwrap();
        let refused = Refusal::new(ErrorCode::Overloaded, "full");
        publishes.refuse_last(parked.appends.len(), &refused);
        let mut answers = Vec::new();
        publishes.answer_refused(&mut |bytes| answers.push(String::from_utf8(bytes).unwrap()));
        assert!(answers.is_empty(), "those before are not answered yet");
        let committed = |seq| Ok(Appended { id: "x".into(), seq, duplicate: false });
        publishes.answer(vec![committed(1), committed(2)], |bytes| answers.push(String::from_utf8(bytes).unwrap()));
        let expected = [("OK", "1"), ("OK", "2"), ("forbidden", "3"), ("overloaded", "4"), ("overloaded", "5")];
        assert_eq!(answers.len(), expected.len());
        for (answer, (what, corr)) in answers.iter().zip(expected) {
            assert!(answer.contains(what) && answer.contains(&format!(r#""corr":"{corr}""#)), "{answer}");
        }
        assert!(publishes.is_empty() && publishes.bytes == 0 && publishes.have_room());
    }
}
