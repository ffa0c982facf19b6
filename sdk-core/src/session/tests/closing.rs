//! How a session ends.

use super::*;

#[test]
fn close_answers_everything_that_is_open() {
    let mut bench = Bench::connected();
    bench.subscribed(Some("g"), "g");
    let open = [
        bench.publish("1"),
        bench.subscribe(Some("h")).1,
        bench.session.settle(bench.now, REF, Settle::Ack),
        bench.session.pause(bench.now, SubscriptionId(1), true),
    ];
    bench.session.close();
    bench.drain();
    for request in open {
        assert_eq!(bench.code(request), codes::CLOSED);
    }
    assert_eq!((bench.session.state(), bench.shuts), (State::Closed, 1));
    let late = [bench.publish("1"), bench.subscribe(Some("h")).1, bench.session.connect(bench.now)];
    bench.drain();
    for request in late {
        assert_eq!(bench.code(request), codes::CLOSED);
    }
    bench.session.close();
    bench.drain();
    assert_eq!(bench.shuts, 1);
}

#[test]
fn a_drain_pauses_lets_what_runs_finish_and_closes() {
    let mut bench = Bench::connected();
    bench.subscribed(Some("g"), "g");
    assert!(bench.event(EVENT).is_some());
    let publish = bench.publish("1");
    let published = bench.sent().remove(0);
    bench.session.drain();
    assert_eq!(ops(&bench.sent()), ["PAUSE"]);
    assert!(bench.event(EVENT).is_none(), "nothing new is begun");
    let (_, refused) = bench.subscribe(Some("h"));
    assert_eq!(bench.code(refused), codes::CLOSED);

    let second = bench.publish("2");
    let second_sent = bench.sent().remove(0);
    assert!(bench.session.settle_quietly(bench.now, REF, Settle::Ack));
    let ack = bench.sent().remove(0);
    bench.session.close_when_settled();
    let refused = bench.publish("3");
    assert_eq!(bench.code(refused), codes::CLOSED, "what ran has come to its end");
    bench.ok(&ack);
    bench.hub(&format!(r#"{{"op":"OK","corr":"{}","seq":2}}"#, corr(&second_sent)));
    assert!(bench.done[&second].is_ok(), "a handler that runs may publish");
    assert_eq!(bench.session.state(), State::Ready, "the publish is still open");
    bench.hub(&format!(r#"{{"op":"OK","corr":"{}","seq":1}}"#, corr(&published)));
    assert_eq!((bench.session.state(), bench.shuts), (State::Closed, 1));
    assert!(bench.done[&publish].is_ok());
}

#[test]
fn a_drain_survives_a_reconnect() {
    let mut bench = Bench::connected();
    bench.subscribed(Some("g"), "g");
    let publish = bench.publish("1");
    bench.session.close_when_settled();
    let again = bench.reconnect();
    assert_eq!(ops(&again), ["PUBLISH"], "and nothing is subscribed again");
    bench.hub(&format!(r#"{{"op":"OK","corr":"{}","seq":1}}"#, corr(&again[0])));
    assert!(bench.done[&publish].is_ok());
    assert_eq!(bench.session.state(), State::Closed);
}

#[test]
fn a_flush_is_done_when_what_was_asked_before_is_answered() {
    let mut bench = Bench::connected();
    let idle = bench.session.flush(bench.now, None);
    bench.drain();
    assert!(bench.done[&idle].is_ok(), "nothing to wait for");
    bench.publish("1");
    bench.publish("2");
    let sent = bench.sent();
    let flush = bench.session.flush(bench.now, None);
    bench.publish("3");
    bench.drain();
    bench.hub(&format!(r#"{{"op":"OK","corr":"{}","seq":1}}"#, corr(&sent[0])));
    assert!(!bench.done.contains_key(&flush), "the second is open");
    let again = bench.reconnect();
    bench.hub(&format!(r#"{{"op":"OK","corr":"{}","seq":2}}"#, corr(&again[0])));
    assert!(bench.done[&flush].is_ok(), "it does not wait for the third, and not for ever over a reconnect");
}

#[test]
fn a_flush_ends_with_the_requests_it_waits_for() {
    let mut bench = Bench::connected();
    let publish = bench.publish("1");
    let flush = bench.session.flush(bench.now, None);
    bench.advance(30_000);
    assert_eq!((bench.code(publish), bench.done.contains_key(&flush)), (codes::TIMEOUT, true));
    bench.session.close();
    let late = bench.session.flush(bench.now, None);
    bench.drain();
    assert_eq!(bench.code(late), codes::CLOSED);
}

#[test]
fn an_idle_session_closes_at_once() {
    let mut bench = Bench::with_token();
    bench.session.close_when_settled();
    bench.drain();
    assert_eq!((bench.session.state(), bench.shuts), (State::Closed, 0));
}
