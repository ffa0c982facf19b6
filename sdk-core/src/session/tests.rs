//! The session against a scripted hub: frames in, frames out, no time but the one the test sets.

use std::collections::BTreeMap;

use super::*;
use crate::{Delivery, DeliveryRef, Settle, SubscriptionId, codes};

/// A session, what it has put out so far, and the test's clock.
struct Bench {
    session: Session,
    now: u64,
    sent: Vec<String>,
    done: BTreeMap<RequestId, Result<Answer, Error>>,
    states: Vec<State>,
    opens: usize,
    shuts: usize,
    asked: Option<u32>,
    others: Vec<Output>,
}

impl Bench {
    fn new(config: Config) -> Self {
        Self {
            session: Session::new(config, [7, 9]),
            now: 1_000,
            sent: Vec::new(),
            done: BTreeMap::new(),
            states: Vec::new(),
            opens: 0,
            shuts: 0,
            asked: None,
            others: Vec::new(),
        }
    }

    fn with_token() -> Self {
        Self::new(Config { token: Some("t".into()), ..Config::default() })
    }

    fn drain(&mut self) {
        while let Some(output) = self.session.poll() {
            match output {
                Output::Open => self.opens += 1,
                Output::Shut { .. } => self.shuts += 1,
                Output::Send(frame) => self.sent.push(frame.to_string()),
                Output::NeedToken(asked) => self.asked = Some(asked),
                Output::State(change) => self.states.push(change.state),
                Output::Done { request, result } => {
                    assert!(self.done.insert(request, result).is_none(), "{request:?} is settled twice");
                }
                other => self.others.push(other),
            }
        }
    }

    /// The frames sent since the last call.
    fn sent(&mut self) -> Vec<String> {
        self.drain();
        std::mem::take(&mut self.sent)
    }

    fn hub(&mut self, frame: &str) {
        assert!(self.session.frame(self.now, frame).is_none());
        self.drain();
    }

    fn event<'a>(&mut self, frame: &'a str) -> Option<Delivery<'a>> {
        self.session.frame(self.now, frame)
    }

    fn ok(&mut self, frame: &str) {
        let answer = format!(r#"{{"op":"OK","corr":"{}"}}"#, corr(frame));
        self.hub(&answer);
    }

    fn err(&mut self, frame: &str, code: &str) {
        let answer = format!(r#"{{"op":"ERR","code":"{code}","msg":"m","corr":"{}"}}"#, corr(frame));
        self.hub(&answer);
    }

    fn advance(&mut self, ms: u64) {
        self.now += ms;
        self.session.tick(self.now);
        self.drain();
    }

    /// Lets time pass to the next deadline.
    fn next_deadline(&mut self) {
        let due = self.session.deadline().expect("a deadline");
        self.now = self.now.max(due);
        self.session.tick(self.now);
        self.drain();
    }

    /// From `Open` to `Ready`; returns what is sent after the AUTH.
    fn login(&mut self) -> Vec<String> {
        self.session.opened(self.now);
        let auth = self.sent();
        assert_eq!(auth.len(), 1, "nothing but AUTH before its answer: {auth:?}");
        assert!(auth[0].starts_with(r#"{"op":"AUTH""#));
        self.ok(&auth[0]);
        assert_eq!(self.session.state(), State::Ready);
        self.sent()
    }

    fn connected() -> Self {
        let mut bench = Self::with_token();
        bench.session.connect(bench.now);
        bench.drain();
        bench.login();
        bench
    }

    /// Loses the connection and makes the next; returns what is sent after the AUTH.
    fn reconnect(&mut self) -> Vec<String> {
        self.lose();
        self.next_deadline();
        self.login()
    }

    fn lose(&mut self) {
        self.drain();
        self.sent.clear();
        self.session.lost(self.now, None, "");
        self.drain();
    }

    fn publish(&mut self, payload: &str) -> RequestId {
        let publish = Publish { topic: "a.b", payload, id: None, options: "", timeout_ms: None };
        let request = self.session.publish(self.now, 1_700_000_000_000, publish);
        self.drain();
        request
    }

    fn subscribe(&mut self, group: Option<&str>) -> (SubscriptionId, RequestId) {
        let ids = self.session.subscribe(self.now, "a.*", group, "", None);
        self.drain();
        ids
    }

    fn subscribed(&mut self, group: Option<&str>, name: &str) -> SubscriptionId {
        let (id, request) = self.subscribe(group);
        let sent = self.sent();
        self.hub(&format!(r#"{{"op":"OK","corr":"{}","topic":"a.*","group":"{name}"}}"#, corr(&sent[0])));
        assert_eq!(self.done[&request], Ok(Answer::Done));
        id
    }

    fn code(&self, request: RequestId) -> &str {
        match &self.done[&request] {
            Err(error) => error.code(),
            Ok(answer) => panic!("{answer:?}"),
        }
    }
}

fn field(frame: &str, name: &str) -> String {
    let frame: serde_json::Value = serde_json::from_str(frame).unwrap();
    let found = frame.get(name).or_else(|| frame.get("opts")?.get(name));
    found.and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
}

fn corr(frame: &str) -> String {
    field(frame, "corr")
}

fn ops(frames: &[String]) -> Vec<String> {
    frames.iter().map(|frame| field(frame, "op")).collect()
}

const EVENT: &str = r#"{"op":"EVENT","topic":"a.*","group":"g","event":{"id":"e1","seq":1,"ts":1,"topic":"a.b","payload":{"x":1}},"ctx":{"attempt":1,"max_attempts":5,"ack_deadline_ms":30000,"lease":"00000000000000a1","redelivered":false}}"#;
const REF: DeliveryRef<'_> =
    DeliveryRef { subscription: SubscriptionId(1), connection: 1, id: "e1", lease: Some("00000000000000a1") };

#[test]
fn nothing_is_sent_before_auth_is_answered() {
    let mut bench = Bench::with_token();
    bench.publish("1");
    bench.subscribe(Some("g"));
    assert_eq!((bench.opens, bench.sent().len()), (1, 0), "asking for something connects");
    let sent = bench.login();
    assert_eq!(ops(&sent), ["SUBSCRIBE", "PUBLISH"]);
    assert_eq!(bench.states, [State::Connecting, State::Ready]);
}

#[test]
fn unanswered_publishes_are_sent_again_with_their_ids_in_order_before_newer_ones() {
    let mut bench = Bench::connected();
    let requests: Vec<RequestId> = (0..4).map(|n| bench.publish(&n.to_string())).collect();
    let first = bench.sent();
    let answer = format!(r#"{{"op":"OK","corr":"{}","id":"x","seq":7}}"#, corr(&first[1]));
    bench.hub(&answer);
    bench.lose();
    let newer = bench.publish("4");
    assert!(bench.sent().is_empty());
    bench.next_deadline();
    let again = bench.login();
    assert_eq!(again[..3], [&first[0], &first[2], &first[3]].map(Clone::clone));
    assert_eq!(again.len(), 4);
    for (n, frame) in again.iter().enumerate() {
        let duplicate = n < 3;
        bench.hub(&format!(r#"{{"op":"OK","corr":"{}","id":"x","seq":{n},"duplicate":{duplicate}}}"#, corr(frame)));
    }
    let id = field(&first[0], "id");
    assert_eq!(bench.done[&requests[0]], Ok(Answer::Published { id, seq: 0, duplicate: true }));
    assert!(matches!(bench.done[&newer], Ok(Answer::Published { duplicate: false, .. })));
    assert_eq!(bench.session.queued(), 0);
}

#[test]
fn the_queue_is_bounded() {
    let config = Config { token: Some("t".into()), max_queued: 3, max_queued_bytes: 1_000, ..Config::default() };
    let mut bench = Bench::new(config);
    let large = format!("\"{}\"", "x".repeat(1_100));
    let refused = bench.publish(&large);
    assert_eq!(bench.code(refused), "overloaded");
    (0..3).for_each(|_| _ = bench.publish("1"));
    let refused = bench.publish("2");
    assert_eq!(bench.code(refused), "overloaded");
    assert!(matches!(&bench.done[&refused], Err(error) if error.retryable()));
}

#[test]
fn what_the_hub_would_close_the_connection_for_is_refused_here() {
    let mut bench = Bench::connected();
    let refused = bench.publish(&format!("\"{}\"", "x".repeat(1024 * 1024)));
    assert_eq!(bench.code(refused), "too_large");
    for topic in ["", "a..b", "a.*", "a b"] {
        let publish = Publish { topic, payload: "1", id: None, options: "", timeout_ms: None };
        let request = bench.session.publish(0, 0, publish);
        bench.drain();
        assert_eq!(bench.code(request), "bad_topic");
    }
    assert!(bench.sent().is_empty());
}

#[test]
fn requests_time_out_reconnects_included() {
    let mut bench = Bench::connected();
    let publish = bench.publish("1");
    let (_, subscribe) = bench.subscribe(Some("g"));
    bench.lose();
    for _ in 0..10_000 {
        if bench.done.len() == 3 {
            break;
        }
        bench.next_deadline();
    }
    assert_eq!((bench.code(publish), bench.code(subscribe)), (codes::TIMEOUT, codes::TIMEOUT));
    assert!(bench.now >= 31_000 && bench.now < 32_000, "{}", bench.now);
    while bench.session.state() != State::Ready {
        bench.next_deadline();
        if matches!(bench.session.phase, Phase::Opening { .. }) {
            assert!(bench.login().is_empty(), "nobody waits for it any more");
        }
    }
}

#[test]
fn a_subscribe_that_is_answered_too_late_is_undone() {
    let mut bench = Bench::connected();
    let (_, request) = bench.subscribe(None);
    let frame = bench.sent().remove(0);
    bench.advance(29_999);
    bench.hub(r#"{"op":"PONG"}"#);
    bench.advance(1);
    assert_eq!(bench.code(request), codes::TIMEOUT);
    bench.hub(&format!(r#"{{"op":"OK","corr":"{}","topic":"a.*","group":"$live-1"}}"#, corr(&frame)));
    let sent: Vec<String> = bench.sent().into_iter().filter(|frame| field(frame, "op") != "PING").collect();
    assert_eq!(sent, [r#"{"op":"UNSUBSCRIBE","topic":"a.*","group":"$live-1"}"#]);
}

#[test]
fn subscriptions_come_back_by_themselves_and_pause_stays() {
    let mut bench = Bench::connected();
    let id = bench.subscribed(Some("g"), "g");
    let live = bench.subscribed(None, "$live-1");
    let paused = bench.session.pause(bench.now, id, true);
    let pause = bench.sent().remove(0);
    assert_eq!(field(&pause, "op"), "PAUSE");
    let sent = bench.reconnect();
    assert_eq!(ops(&sent), ["SUBSCRIBE", "SUBSCRIBE"]);
    bench.hub(&format!(r#"{{"op":"OK","corr":"{}","topic":"a.*","group":"g"}}"#, corr(&sent[0])));
    let pause = bench.sent().remove(0);
    assert_eq!(field(&pause, "op"), "PAUSE");
    bench.ok(&pause);
    assert_eq!(bench.done[&paused], Ok(Answer::Done));
    // The new connection numbers its ephemeral groups anew.
    bench.hub(&format!(r#"{{"op":"OK","corr":"{}","topic":"a.*","group":"$live-9"}}"#, corr(&sent[1])));
    bench.hub(r#"{"op":"LIVE","topic":"a.*","group":"$live-1"}"#);
    assert!(bench.others.is_empty());
    bench.hub(r#"{"op":"LIVE","topic":"a.*","group":"$live-9"}"#);
    assert_eq!(bench.others, [Output::Live { subscription: live }]);
}

#[test]
fn calls_made_while_away_wait_for_the_connection() {
    let mut bench = Bench::connected();
    let id = bench.subscribed(Some("g"), "g");
    bench.lose();
    let first = bench.session.pause(bench.now, id, true);
    let second = bench.session.pause(bench.now, id, false);
    bench.drain();
    assert_eq!(bench.done[&first], Ok(Answer::Done), "overtaken by the next");
    bench.next_deadline();
    let sent = bench.login();
    bench.hub(&format!(r#"{{"op":"OK","corr":"{}","group":"g"}}"#, corr(&sent[0])));
    assert_eq!(bench.done[&second], Ok(Answer::Done));
    assert!(bench.sent().is_empty(), "a new member is not paused");
    bench.lose();
    let gone = bench.session.unsubscribe(bench.now, id);
    bench.drain();
    assert_eq!(bench.done[&gone], Ok(Answer::Done));
    bench.next_deadline();
    assert!(bench.login().is_empty());
}

#[test]
fn one_subscription_of_a_name_at_a_time() {
    let mut bench = Bench::connected();
    let id = bench.subscribed(Some("g"), "g");
    let (_, again) = bench.subscribe(Some("g"));
    assert_eq!(bench.code(again), "already_subscribed");
    bench.session.unsubscribe(bench.now, id);
    assert_eq!(ops(&bench.sent()), ["UNSUBSCRIBE"]);
    assert!(bench.event(EVENT).is_none(), "an event that was under way is given back by the hub");
    bench.subscribed(Some("g"), "g");
}

#[test]
fn events_are_lent_and_settled_by_lease() {
    let mut bench = Bench::connected();
    bench.subscribed(Some("g"), "g");
    let delivery = bench.event(EVENT).expect("a delivery");
    assert_eq!((delivery.subscription, delivery.connection), (SubscriptionId(1), 1));
    assert_eq!(delivery.event, r#"{"id":"e1","seq":1,"ts":1,"topic":"a.b","payload":{"x":1}}"#);
    assert!(bench.session.settle_quietly(bench.now, REF, Settle::Ack));
    assert_eq!(bench.sent(), [r#"{"op":"ACK","topic":"a.*","group":"g","id":"e1","lease":"00000000000000a1"}"#]);
    let long = "ü".repeat(600);
    let nack = Settle::Nack { reason: Some(&long), delay_ms: Some(5), dead: true };
    let request = bench.session.settle(bench.now, REF, nack);
    let sent = bench.sent();
    assert_eq!(field(&sent[0], "reason").len(), 1024);
    bench.err(&sent[0], "stale_lease");
    assert_eq!(bench.code(request), "stale_lease");
    let request = bench.session.settle(bench.now, REF, Settle::Extend(1));
    let sent = bench.sent();
    assert!(sent[0].contains(r#""extend_ms":1000"#));
    bench.ok(&sent[0]);
    assert_eq!(bench.done[&request], Ok(Answer::Done));
}

#[test]
fn leases_end_with_their_connection() {
    let mut bench = Bench::connected();
    bench.subscribed(Some("g"), "g");
    let open = bench.session.settle(bench.now, REF, Settle::Ack);
    bench.reconnect();
    assert_eq!(bench.code(open), codes::CONNECTION_LOST);
    assert!(!bench.session.settle_quietly(bench.now, REF, Settle::Ack));
    let late = bench.session.settle(bench.now, REF, Settle::Ack);
    assert!(bench.sent().is_empty());
    assert_eq!(bench.code(late), "stale_lease");
}

#[test]
fn gaps_and_revocations_are_told() {
    let mut bench = Bench::connected();
    let id = bench.subscribed(Some("g"), "g");
    bench.hub(r#"{"op":"GAP","topic":"a.b","group":"g","from":3,"to":4,"reason":"r"}"#);
    let gap = Output::Gap { subscription: id, topic: "a.b".into(), from: 3, to: 4, reason: "r".into() };
    assert_eq!(bench.others, [gap]);
    bench.hub(r#"{"op":"REVOKED","topic":"a.*","group":"g","code":"forbidden","msg":"m"}"#);
    assert!(
        matches!(&bench.others[1], Output::Revoked { subscription, error } if *subscription == id && error.code() == "forbidden")
    );
    assert!(bench.event(EVENT).is_none());
    assert!(bench.reconnect().is_empty(), "a revoked subscription does not come back");
}

#[test]
fn a_resubscribe_is_tried_again_or_given_up() {
    let mut bench = Bench::connected();
    let id = bench.subscribed(Some("g"), "g");
    let sent = bench.reconnect();
    bench.err(&sent[0], "store_unavailable");
    assert!(bench.sent().is_empty());
    bench.next_deadline();
    let sent = bench.sent();
    assert_eq!(ops(&sent), ["SUBSCRIBE"]);
    bench.err(&sent[0], "forbidden");
    assert!(matches!(&bench.others[..], [Output::Revoked { subscription, .. }] if *subscription == id));
}

#[test]
fn a_silent_connection_is_pinged_then_given_up() {
    let mut bench = Bench::connected();
    bench.advance(24_999);
    assert!(bench.sent().is_empty());
    bench.advance(1);
    assert_eq!(bench.sent(), [r#"{"op":"PING"}"#]);
    bench.hub(r#"{"op":"PONG"}"#);
    bench.advance(25_000);
    assert_eq!(bench.sent().len(), 1);
    bench.advance(34_999);
    assert_eq!(bench.session.state(), State::Ready);
    bench.advance(1);
    assert_eq!((bench.session.state(), bench.shuts), (State::Reconnecting, 1));
}

#[test]
fn an_opening_or_a_login_without_answer_is_tried_again() {
    let mut bench = Bench::with_token();
    bench.session.connect(bench.now);
    bench.drain();
    bench.advance(10_000);
    assert_eq!((bench.session.state(), bench.shuts), (State::Reconnecting, 1));
    bench.next_deadline();
    bench.session.opened(bench.now);
    bench.sent();
    bench.advance(10_000);
    assert_eq!((bench.session.state(), bench.shuts, bench.opens), (State::Reconnecting, 2, 2));
}

#[test]
fn the_hub_says_whether_to_come_back() {
    for code in [1009, 4403] {
        let mut bench = Bench::connected();
        let open = bench.publish("1");
        bench.session.lost(bench.now, Some(code), "");
        bench.drain();
        assert_eq!(bench.session.state(), State::Closed);
        assert_ne!(bench.code(open), codes::CLOSED, "the caller learns why");
        assert_eq!(bench.session.deadline(), None);
        let late = bench.publish("1");
        assert_eq!(bench.code(late), bench.code(open));
    }
    for code in [1000, 1001, 1006, 1011, 4401, 4408, 4413, 4429, 4999] {
        let mut bench = Bench::connected();
        bench.session.lost(bench.now, Some(code), "");
        bench.drain();
        assert_eq!(bench.session.state(), State::Reconnecting, "{code}");
    }
}

#[test]
fn a_hub_that_shuts_down_loses_nothing() {
    let mut bench = Bench::connected();
    let request = bench.publish("1");
    let first = bench.sent();
    bench.err(&first[0], "shutting_down");
    assert_eq!((bench.session.state(), bench.shuts), (State::Reconnecting, 1));
    bench.next_deadline();
    let again = bench.login();
    assert_eq!(again, first);
    bench.hub(&format!(r#"{{"op":"OK","corr":"{}","seq":1}}"#, corr(&again[0])));
    assert!(bench.done[&request].is_ok());
}

#[test]
fn a_login_makes_the_next_wait_short_again() {
    let mut bench = Bench::connected();
    for _ in 0..10 {
        bench.lose();
        bench.next_deadline();
    }
    bench.login();
    bench.lose();
    let wait = bench.session.deadline().expect("a deadline") - bench.now;
    assert!(wait <= Config::default().reconnect_min_ms, "{wait}");
}

#[test]
fn a_subscription_gets_nothing_before_it_is_confirmed() {
    let mut bench = Bench::connected();
    bench.subscribed(Some("g"), "g");
    let sent = bench.reconnect();
    assert!(bench.event(EVENT).is_none());
    bench.hub(&format!(r#"{{"op":"OK","corr":"{}","topic":"a.*","group":"g"}}"#, corr(&sent[0])));
    assert_eq!(bench.event(EVENT).expect("a delivery").connection, 2);
}

mod closing;
mod names;
mod tokens;
