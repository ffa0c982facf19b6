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
    let refused = bench.publish("2");
    assert_eq!(bench.code(refused), codes::CLOSED);

    assert!(bench.session.settle_quietly(bench.now, REF, Settle::Ack));
    let ack = bench.sent().remove(0);
    bench.session.close_when_settled();
    bench.ok(&ack);
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
fn an_idle_session_closes_at_once() {
    let mut bench = Bench::with_token();
    bench.session.close_when_settled();
    bench.drain();
    assert_eq!((bench.session.state(), bench.shuts), (State::Closed, 0));
}
