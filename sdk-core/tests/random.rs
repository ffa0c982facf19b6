//! The session under random schedules, through its public face: whatever happens, every call is settled exactly once,
//! nothing but AUTH goes out before its answer, publishes keep their order and their ids, and nothing panics.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::{BTreeMap, BTreeSet};

use prom_protocol::{ClientFrame, client};
use prom_sdk_core::{Config, DeliveryRef, Output, Publish, RequestId, Session, Settle, State, SubscriptionId};
use proptest::prelude::*;

/// A small generator, so that a failing seed replays on every platform.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// The world around a session: a socket that fails, a hub that answers in its own time.
struct World {
    dice: Dice,
    session: Session,
    now: u64,
    asked: Option<u32>,
    opening: bool,
    open: bool,
    ready: bool,
    /// Answers the hub has not sent yet.
    answers: Vec<String>,
    waiting: BTreeSet<RequestId>,
    settled: BTreeSet<RequestId>,
    subscriptions: Vec<SubscriptionId>,
    /// Per connection, the payloads of its PUBLISH frames in order; and the id each payload went with.
    published: Vec<u64>,
    ids: BTreeMap<u64, String>,
    payload: u64,
    live_groups: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let token = (dice.roll(2) == 0).then(|| "t".to_owned());
        let config = Config { token, max_queued: 20, ..Config::default() };
        let session = Session::new(config, [seed, !seed]);
        Self {
            dice,
            session,
            now: 0,
            asked: None,
            opening: false,
            open: false,
            ready: false,
            answers: Vec::new(),
            waiting: BTreeSet::new(),
            settled: BTreeSet::new(),
            subscriptions: Vec::new(),
            published: Vec::new(),
            ids: BTreeMap::new(),
            payload: 0,
            live_groups: 0,
        }
    }

    fn called(&mut self, request: RequestId) {
        assert!(self.waiting.insert(request));
    }

    fn drain(&mut self) {
        while let Some(output) = self.session.poll() {
            match output {
                Output::Open => {
                    (self.opening, self.open, self.ready) = (true, false, false);
                    self.answers.clear();
                    self.published.clear();
                }
                Output::Shut { .. } => (self.opening, self.open) = (false, false),
                Output::Send(frame) => {
                    assert!(self.open, "sent without a socket: {frame}");
                    self.hub(&frame);
                }
                Output::NeedToken(asked) => self.asked = Some(asked),
                Output::Done { request, .. } => {
                    assert!(self.waiting.remove(&request), "{request:?} was not waited for");
                    assert!(self.settled.insert(request));
                }
                Output::State(change) => self.ready = change.state == State::Ready,
                _ => {}
            }
        }
    }

    /// The hub takes a frame and decides on its answer.
    fn hub(&mut self, frame: &str) {
        let request = client::parse(frame).expect("the hub understands every frame");
        assert!(self.ready || matches!(request.frame, ClientFrame::Auth { .. }), "before AUTH was answered: {frame}");
        let corr = request.corr.as_ref().map_or("", |corr| corr.as_str());
        let mut ok = format!(r#"{{"op":"OK","corr":"{corr}""#);
        match &request.frame {
            ClientFrame::Auth { .. } if self.dice.roll(3) == 0 => ok.push_str(r#","expires_in_ms":60000"#),
            ClientFrame::Publish(publish) => {
                let number: u64 = publish.payload.get().parse().unwrap();
                assert!(self.published.last().is_none_or(|last| *last < number), "out of order on one connection");
                self.published.push(number);
                let id = publish.options.id.as_ref().unwrap().as_str().to_owned();
                assert_eq!(*self.ids.entry(number).or_insert_with(|| id.clone()), id, "a repeat keeps its id");
                ok.push_str(r#","id":"x","seq":1"#);
            }
            ClientFrame::Subscribe(subscribe) => {
                self.live_groups += 1;
                let live = format!("$live-{}", self.live_groups);
                let group = subscribe.group.as_ref().map_or(live.as_str(), |group| group.as_str());
                ok.push_str(&format!(r#","topic":"a","group":"{group}""#));
            }
            _ => {}
        }
        ok.push('}');
        let code = ["forbidden", "overloaded", "internal", "shutting_down", "jwt_invalid"][self.dice.roll(5) as usize];
        let err = format!(r#"{{"op":"ERR","code":"{code}","msg":"m","corr":"{corr}"}}"#);
        match self.dice.roll(24) {
            0 => {} // lost in the hub
            1 => self.answers.push(err),
            2 => self.answers.extend([ok.clone(), ok, err]), // a hub that answers too much
            _ => self.answers.push(ok),
        }
    }

    fn step(&mut self) {
        match self.dice.roll(20) {
            0 => {
                let request = self.session.connect(self.now);
                self.called(request);
            }
            1..=5 => {
                self.payload += 1;
                let text = self.payload.to_string();
                let timeout_ms = (self.dice.roll(4) == 0).then_some(50);
                let publish = Publish { topic: "a", payload: &text, id: None, options: "", timeout_ms };
                let request = self.session.publish(self.now, 1_700_000_000_000, publish);
                self.called(request);
            }
            6 => {
                let group = ["g", "h"][self.dice.roll(2) as usize];
                let group = (self.dice.roll(3) > 0).then_some(group);
                let (id, request) = self.session.subscribe(self.now, "a", group, "", None);
                self.subscriptions.push(id);
                self.called(request);
            }
            7..=9 if !self.subscriptions.is_empty() => {
                let at = self.dice.roll(self.subscriptions.len() as u64) as usize;
                let id = self.subscriptions[at];
                let delivery = DeliveryRef {
                    subscription: id,
                    connection: self.session.connection(),
                    id: "e",
                    lease: Some("00000000000000a1"),
                };
                let request = match self.dice.roll(5) {
                    0 => self.session.unsubscribe(self.now, id),
                    1 => self.session.pause(self.now, id, true),
                    2 => self.session.pause(self.now, id, false),
                    3 => self.session.settle(self.now, delivery, Settle::Ack),
                    _ => {
                        self.session.settle_quietly(self.now, delivery, Settle::Extend(5_000));
                        return self.drain();
                    }
                };
                self.called(request);
            }
            10 if self.open => {
                self.open = false;
                let code = [None, Some(1001), Some(1006), Some(4401)][self.dice.roll(4) as usize];
                self.session.lost(self.now, code, "");
            }
            11 | 12 => {
                let ms = [1, 20, 400, 9_000, 26_000][self.dice.roll(5) as usize];
                self.now += ms;
                self.session.tick(self.now);
            }
            13 => {
                if let Some(due) = self.session.deadline() {
                    self.now = self.now.max(due);
                    self.session.tick(self.now);
                }
            }
            _ if self.asked.is_some() => {
                let asked = self.asked.take().unwrap();
                let token = if self.dice.roll(4) == 0 { Err("down".to_owned()) } else { Ok("t".to_owned()) };
                self.session.token(self.now, asked, token);
            }
            _ if self.opening => {
                self.opening = false;
                if self.dice.roll(5) == 0 {
                    self.session.lost(self.now, None, "refused");
                } else {
                    self.open = true;
                    self.session.opened(self.now);
                }
            }
            _ if self.open && !self.answers.is_empty() => {
                let answer = self.answers.remove(0);
                self.session.frame(self.now, &answer);
            }
            _ => {}
        }
        self.drain();
    }
}

#[test]
fn every_call_is_settled_exactly_once_whatever_happens() {
    for seed in 0..400 {
        let mut world = World::new(seed);
        for _ in 0..600 {
            world.step();
        }
        if world.dice.roll(2) == 0 {
            world.session.close_when_settled();
            for _ in 0..300 {
                world.drain();
                world.step();
            }
        }
        world.session.close();
        world.drain();
        assert!(world.waiting.is_empty(), "seed {seed}: never settled: {:?}", world.waiting);
        assert_eq!((world.session.state(), world.session.queued()), (State::Closed, 0), "seed {seed}");
    }
}

fn ready() -> Session {
    let mut session = Session::new(Config { token: Some("t".into()), ..Config::default() }, [1, 2]);
    session.connect(0);
    session.opened(0);
    session.frame(0, r#"{"op":"OK","corr":"2"}"#);
    session.subscribe(0, "a.*", Some("g"), "", None);
    session.frame(0, r#"{"op":"OK","corr":"3","topic":"a.*","group":"g"}"#);
    while session.poll().is_some() {}
    session
}

/// Fields of every frame, with values of every type.
fn frames() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just("null".to_owned()),
        any::<u64>().prop_map(|n| n.to_string()),
        "\"[a-z0-9.*$\\\\]{0,3}\"",
        Just("\"1\"".to_owned()),
        Just("\"g\"".to_owned()),
        Just("\"a.*\"".to_owned()),
        Just("{\"id\":1}".to_owned()),
        Just("true".to_owned()),
        Just(r#"{"attempt":1,"max_attempts":1,"ack_deadline_ms":1,"lease":null,"redelivered":false}"#.to_owned()),
    ];
    let name = prop::sample::select(vec![
        "corr",
        "id",
        "seq",
        "duplicate",
        "topic",
        "group",
        "expires_in_ms",
        "code",
        "msg",
        "retry_after_ms",
        "event",
        "ctx",
        "from",
        "to",
        "reason",
        "op",
    ]);
    let op = prop::sample::select(vec!["OK", "ERR", "EVENT", "LIVE", "GAP", "REVOKED", "PONG", "FUTURE"]);
    (op, prop::collection::vec((name, value), 0..8)).prop_map(|(op, fields)| {
        let fields: String = fields.into_iter().map(|(name, value)| format!(",\"{name}\":{value}")).collect();
        format!("{{\"op\":\"{op}\"{fields}}}")
    })
}

proptest! {
    #[test]
    fn no_frame_makes_it_panic(texts in prop::collection::vec(prop_oneof![frames(), ".*"], 1..20)) {
        let mut session = ready();
        for text in &texts {
            session.frame(1, text);
            session.deadline();
        }
        session.tick(u64::MAX);
        session.close();
        while session.poll().is_some() {}
        prop_assert_eq!(session.state(), State::Closed);
    }
}
