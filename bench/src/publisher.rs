//! One connection's publishes: copied from a frame made once, with the numbers put in.

use std::{
    rc::Rc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use crate::{check::Order, drive::WRITE, frame};

/// Digits of a publish's number, in its `corr` and in its payload.
const DIGITS: usize = 10;
/// Bytes of the smallest payload: that with a number and no padding.
pub(crate) const PAYLOAD_MIN: usize = PAYLOAD_HEAD.len() + DIGITS + PAYLOAD_MIDDLE.len() + PAYLOAD_TAIL.len();
const PAYLOAD_HEAD: &str = r#"{"n":""#;
const PAYLOAD_MIDDLE: &str = r#"","pad":""#;
const PAYLOAD_TAIL: &str = r#""}"#;
/// A UUID's length as text.
const UUID: usize = 36;

/// The PUBLISH frames of one topic.
#[derive(Debug)]
struct Template {
    frame: Vec<u8>,
    corr: usize,
    number: usize,
    id: Option<usize>,
}

impl Template {
    fn new(topic: &str, payload: usize, ids: bool) -> Self {
        let digits = "0".repeat(DIGITS);
        let mut text = String::from(r#"{"op":"PUBLISH","corr":""#);
        let corr = text.len();
        text += &format!(r#"{digits}","topic":"{topic}","payload":{PAYLOAD_HEAD}"#);
        let number = text.len();
        let pad = "x".repeat(payload.saturating_sub(PAYLOAD_MIN));
        text += &format!("{digits}{PAYLOAD_MIDDLE}{pad}{PAYLOAD_TAIL}");
        let id = ids.then(|| {
            text += r#","opts":{"id":""#;
            let id = text.len();
            text += &format!(r#"{}"}}"#, "0".repeat(UUID));
            id
        });
        text.push('}');
        let mut frame = Vec::new();
        frame::text(&mut frame, &[text.as_bytes()]);
        let head = frame.len() - text.len();
        Self { frame, corr: head + corr, number: head + number, id: id.map(|id| head + id) }
    }
}

/// The payload of publish `number`, padded to `size` bytes.
#[cfg(feature = "mongodb")]
pub(crate) fn payload(number: u64, size: usize) -> String {
    let pad = size.saturating_sub(PAYLOAD_MIN);
    format!("{PAYLOAD_HEAD}{number:0DIGITS$}{PAYLOAD_MIDDLE}{:x<pad$}{PAYLOAD_TAIL}", "")
}

/// The topics of a run and the frames that publish to them. No other run has the same.
#[derive(Debug, Clone)]
pub(crate) struct Topics {
    names: Rc<[String]>,
    templates: Rc<[Template]>,
}

impl Topics {
    pub(crate) fn new(count: usize, payload: usize, ids: bool) -> Self {
        let run = fastrand::u64(..);
        let names: Rc<[String]> = (0..count).map(|number| format!("bench.{run:016x}.{number}")).collect();
        let templates = names.iter().map(|topic| Template::new(topic, payload, ids)).collect();
        Self { names, templates }
    }

    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    pub(crate) fn name(&self, number: usize) -> &str {
        &self.names[number]
    }

    /// The topic, or the pattern that matches all of them.
    pub(crate) fn pattern(&self) -> String {
        match &*self.names {
            [only] => only.clone(),
            names => names.first().map_or(String::new(), |name| format!("{}.*", prefix(name))),
        }
    }

    /// The index of the topic called `name`.
    pub(crate) fn number(&self, name: &[u8]) -> Option<usize> {
        if let [only] = &*self.names {
            return (only.as_bytes() == name).then_some(0);
        }
        let at = memchr::memrchr(b'.', name)? + 1;
        let number = usize::try_from(crate::scan::digits(&name[at..])?).ok()?;
        (self.names.get(number)?.as_bytes() == name).then_some(number)
    }
}

fn prefix(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(prefix, _)| prefix)
}

/// How much is to be published, over all connections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    pub(crate) left: u64,
    pub(crate) until: Option<Instant>,
}

impl Budget {
    pub(crate) fn count(left: u64) -> Self {
        Self { left, until: None }
    }

    /// Ends the budget when its time is over.
    pub(crate) fn look_at_the_clock(&mut self) {
        if self.until.is_some_and(|until| Instant::now() >= until) {
            self.left = 0;
        }
    }
}

/// One connection's publishes.
#[derive(Debug)]
pub(crate) struct Publisher {
    topics: Topics,
    window: u64,
    /// Where among the topics this connection begins.
    first: u64,
    pub(crate) order: Order,
}

impl Publisher {
    pub(crate) fn new(topics: Topics, window: usize, first: usize) -> Self {
        Self { topics, window: window as u64, first: first as u64, order: Order::default() }
    }

    /// The topic of publish `number`.
    pub(crate) fn topic_of(&self, number: u64) -> usize {
        ((number + self.first) % self.topics.len() as u64) as usize
    }

    /// Appends publishes as far as the window, the budget and the buffer reach. `true`: there are more.
    pub(crate) fn produce(&mut self, budget: &mut Budget, out: &mut Vec<u8>) -> bool {
        budget.look_at_the_clock();
        let mut now_ms = None;
        while budget.left > 0 && self.order.in_flight() < self.window {
            if out.len() >= WRITE {
                return true;
            }
            let number = self.order.asked;
            let template = &self.topics.templates[self.topic_of(number)];
            let start = out.len();
            out.extend_from_slice(&template.frame);
            let frame = &mut out[start..];
            let digits = digits(number);
            frame[template.corr..template.corr + DIGITS].copy_from_slice(&digits);
            frame[template.number..template.number + DIGITS].copy_from_slice(&digits);
            if let Some(at) = template.id {
                let now_ms = *now_ms.get_or_insert_with(wall_clock_ms);
                let mut random = [0; 10];
                fastrand::fill(&mut random);
                let id = uuid::Builder::from_unix_timestamp_millis(now_ms, &random).into_uuid();
                id.hyphenated().encode_lower(&mut frame[at..at + UUID]);
            }
            self.order.asked += 1;
            budget.left -= 1;
        }
        false
    }

    /// Appends one publish, if the window has room: for a caller that decides itself when.
    pub(crate) fn one(&mut self, out: &mut Vec<u8>) {
        self.produce(&mut Budget::count(1), out);
    }
}

fn digits(mut number: u64) -> [u8; DIGITS] {
    let mut digits = [b'0'; DIGITS];
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    digits
}

fn wall_clock_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use prom_protocol::{ClientFrame, client};
    use tungstenite::protocol::{Role, WebSocket};

    use super::*;

    fn texts(out: Vec<u8>) -> Vec<String> {
        let mut socket = WebSocket::from_raw_socket(std::io::Cursor::new(out), Role::Server, None);
        std::iter::from_fn(|| socket.read().ok()).map(|message| message.into_text().unwrap().to_string()).collect()
    }

    #[test]
    fn publishes_are_what_the_protocol_says_and_as_large_as_asked() {
        for (payload, ids) in [(PAYLOAD_MIN, false), (256, true), (70_000, false)] {
            let topics = Topics::new(2, payload, ids);
            let mut publisher = Publisher::new(topics.clone(), 10, 1);
            let mut out = Vec::new();
            publisher.produce(&mut Budget::count(3), &mut out);
            let texts = texts(out);
            assert_eq!(texts.len(), 3);
            let mut seen = std::collections::HashSet::new();
            for (number, text) in texts.iter().enumerate() {
                let request = client::parse(text).unwrap_or_else(|bad| panic!("{bad:?}"));
                let ClientFrame::Publish(publish) = request.frame else { panic!("a PUBLISH") };
                assert_eq!(publish.topic.as_str(), topics.name((number + 1) % 2));
                assert_eq!(publish.payload.get().len(), payload);
                assert!(publish.payload.get().starts_with(&format!(r#"{{"n":"{number:010}""#)));
                assert_eq!(request.corr.unwrap().as_str(), format!("{number:010}"));
                assert_eq!(publish.options.id.is_some(), ids);
                assert!(!ids || seen.insert(publish.options.id.unwrap().as_str().to_owned()));
            }
        }
    }

    #[test]
    fn a_payload_is_as_large_as_asked_and_starts_with_its_number() {
        for size in [PAYLOAD_MIN, 256] {
            let payload = payload(7, size);
            assert_eq!(payload.len(), size);
            assert!(payload.starts_with(r#"{"n":"0000000007","#), "{payload}");
            prom_protocol::check_payload(&payload).unwrap();
        }
    }

    #[test]
    fn the_window_the_budget_and_the_buffer_are_kept() {
        let mut out = Vec::new();
        let mut publisher = Publisher::new(Topics::new(1, 256, false), 5, 0);
        let mut budget = Budget::count(7);
        assert!(!publisher.produce(&mut budget, &mut out));
        assert_eq!((publisher.order.asked, budget.left), (5, 2));
        for number in 0..5 {
            publisher.order.answered(number, &mut crate::Findings::default());
        }
        assert!(!publisher.produce(&mut budget, &mut out));
        assert_eq!((publisher.order.asked, budget.left), (7, 0));

        let mut publisher = Publisher::new(Topics::new(1, WRITE, false), 5, 0);
        out.clear();
        assert!(publisher.produce(&mut Budget::count(5), &mut out));
        assert_eq!(publisher.order.asked, 1);

        let mut over = Budget { left: 5, until: Some(Instant::now()) };
        assert!(!publisher.produce(&mut over, &mut out));
        assert_eq!((publisher.order.asked, over.left), (1, 0));
    }

    #[test]
    fn topics_are_found_by_their_names() {
        for count in [1, 12] {
            let topics = Topics::new(count, 256, false);
            for number in 0..count {
                assert_eq!(topics.number(topics.name(number).as_bytes()), Some(number));
            }
            assert_eq!((topics.number(b"bench.x.0"), topics.number(b"x"), topics.number(b"")), (None, None, None));
            let pattern = prom_protocol::TopicOrPattern::new(&topics.pattern()).unwrap();
            assert!(pattern.matches(&prom_protocol::Topic::new(topics.name(count - 1)).unwrap()));
        }
    }
}
