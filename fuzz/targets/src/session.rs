//! A client's session with a hub that says anything.

use std::collections::HashSet;

use prom_sdk_core::{Config, DeliveryRef, Output, Publish, RequestId, Session, Settle, State};

/// Most steps of one script: what comes later would only be slow.
const STEPS: usize = 64;

struct Shell {
    session: Session,
    now: u64,
    /// Calls that were made, and which of them are settled.
    calls: HashSet<RequestId>,
    settled: HashSet<RequestId>,
    opening: bool,
    asked: Option<u32>,
}

/// A script: lines of which each is a frame of the hub, or, behind a `!`, what else happens.
pub fn session(data: &[u8]) {
    let Ok(script) = std::str::from_utf8(data) else { return };
    let config = Config { max_queued: 8, max_queued_bytes: 4096, ..Config::default() };
    let mut shell = Shell {
        session: Session::new(config, [7, 9]),
        now: 1_000,
        calls: HashSet::new(),
        settled: HashSet::new(),
        opening: false,
        asked: None,
    };
    for line in script.lines().take(STEPS) {
        shell.step(line);
        shell.drain();
    }
    // Every call is settled exactly once, at the latest when the session ends.
    shell.session.close();
    shell.drain();
    assert_eq!(shell.session.state(), State::Closed);
    assert_eq!(shell.settled, shell.calls, "calls that nobody answered");
    assert_eq!(shell.session.queued(), 0);
}

impl Shell {
    fn called(&mut self, request: RequestId) {
        assert!(self.calls.insert(request), "{request:?} names two calls");
    }

    fn step(&mut self, line: &str) {
        let Some(command) = line.strip_prefix('!') else {
            let now = self.now;
            let Some(delivery) = self.session.frame(now, line) else { return };
            let id = prom_protocol::Event::parse(delivery.event).map(|event| event.id.into_owned());
            let (connection, lease) = (delivery.connection, delivery.context.lease.clone());
            assert_eq!(connection, self.session.connection());
            let id = id.as_ref().map_or("", |id| id.as_str());
            let of = DeliveryRef { subscription: delivery.subscription, connection, id, lease: lease.as_deref() };
            let request = self.session.settle(now, of, Settle::Ack);
            self.called(request);
            self.session.settle_quietly(
                now,
                of,
                Settle::Nack { reason: Some("r"), delay_ms: Some(u64::MAX), dead: false },
            );
            return;
        };
        let (word, rest) = command.split_once(' ').unwrap_or((command, ""));
        let now = self.now;
        let made = match word {
            "connect" => self.session.connect(now),
            "ready" => self.session.ready(now),
            "flush" => self.session.flush(now, rest.parse().ok()),
            "publish" => {
                let (topic, payload) = rest.split_once(' ').unwrap_or((rest, "1"));
                // It is sent unchecked.
                if serde_json::from_str::<serde::de::IgnoredAny>(payload).is_err() {
                    return;
                }
                let publish = Publish { topic, payload, id: None, options: "", timeout_ms: None };
                self.session.publish(now, now, publish)
            }
            "subscribe" => {
                let (topic, group) = rest.split_once(' ').unwrap_or((rest, ""));
                let group = Some(group).filter(|group| !group.is_empty());
                self.session.subscribe(now, topic, group, "", None).1
            }
            "pause" => self.session.pause(now, prom_sdk_core::SubscriptionId(rest.parse().unwrap_or(1)), true),
            "resume" => self.session.pause(now, prom_sdk_core::SubscriptionId(rest.parse().unwrap_or(1)), false),
            "unsubscribe" => self.session.unsubscribe(now, prom_sdk_core::SubscriptionId(rest.parse().unwrap_or(1))),
            _ => return self.happens(word, rest),
        };
        self.called(made);
    }

    fn happens(&mut self, word: &str, rest: &str) {
        match word {
            "opened" if self.opening => {
                self.opening = false;
                self.session.opened(self.now);
            }
            "token" => {
                if let Some(asked) = self.asked.take() {
                    self.session.token(self.now, asked, Ok(rest.to_owned()));
                }
            }
            "notoken" => {
                if let Some(asked) = self.asked.take() {
                    self.session.token(self.now, asked, Err(rest.to_owned()));
                }
            }
            "lost" => self.session.lost(self.now, rest.parse().ok(), rest),
            "wait" => {
                self.now = self.now.saturating_add(rest.parse().unwrap_or(1_000)).min(u64::MAX / 4);
                self.session.tick(self.now);
            }
            "heard" => self.session.heard(self.now),
            "hurry" => self.session.hurry(self.now),
            "drain" => self.session.drain(),
            "settled" => self.session.close_when_settled(),
            "close" => self.session.close(),
            _ => {}
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.session.poll() {
            match output {
                Output::Open => self.opening = true,
                Output::Shut { .. } => self.opening = false,
                Output::NeedToken(asked) => self.asked = Some(asked),
                Output::Send(frame) => {
                    if let Err(bad) = prom_protocol::client::parse(&frame) {
                        panic!("the hub would refuse it: {}: {frame}", bad.error);
                    }
                }
                Output::Done { request, .. } => {
                    assert!(self.calls.contains(&request), "{request:?} was never made");
                    assert!(self.settled.insert(request), "{request:?} is settled twice");
                }
                _ => {}
            }
        }
    }
}
