//! Subscriptions of one name after another, sizes, silence, and messages of several frames.

use super::*;

/// The hub confirms the SUBSCRIBE `frame`.
fn confirm(bench: &mut Bench, frame: &str) {
    bench.hub(&format!(r#"{{"op":"OK","corr":"{}","topic":"a.*","group":"g"}}"#, corr(frame)));
}

#[test]
fn a_subscribe_waits_for_the_unsubscribe_of_its_name_to_be_sent() {
    let mut bench = Bench::connected();
    let (first, _) = bench.subscribe(Some("g"));
    bench.session.unsubscribe(bench.now, first);
    let (second, request) = bench.subscribe(Some("g"));
    bench.session.unsubscribe(bench.now, second);
    let (third, request_of_third) = bench.subscribe(Some("g"));
    let sent = bench.sent();
    assert_eq!(ops(&sent), ["SUBSCRIBE"], "one of that name at a time");
    assert!(bench.done[&request].is_ok(), "who ended it need not be told that it is not there");

    confirm(&mut bench, &sent[0]);
    let sent = bench.sent();
    assert_eq!(ops(&sent), ["UNSUBSCRIBE", "SUBSCRIBE"]);
    confirm(&mut bench, &sent[1]);
    assert!(bench.done[&request_of_third].is_ok());
    assert_eq!(bench.event(EVENT).map(|delivery| delivery.subscription), Some(third));
}

#[test]
fn a_subscribe_goes_on_when_the_one_before_it_was_refused_or_lost() {
    let mut bench = Bench::connected();
    let (first, _) = bench.subscribe(Some("g"));
    bench.session.unsubscribe(bench.now, first);
    bench.subscribe(Some("g"));
    let sent = bench.sent();
    bench.err(&sent[0], "forbidden");
    assert_eq!(ops(&bench.sent()), ["SUBSCRIBE"]);

    let mut bench = Bench::connected();
    let (first, _) = bench.subscribe(Some("g"));
    bench.session.unsubscribe(bench.now, first);
    bench.subscribe(Some("g"));
    assert_eq!(ops(&bench.reconnect()), ["SUBSCRIBE"], "with the connection the first is gone");
}

#[test]
fn other_names_and_watches_wait_for_nothing() {
    let mut bench = Bench::connected();
    let (first, _) = bench.subscribe(Some("g"));
    bench.session.unsubscribe(bench.now, first);
    bench.subscribe(Some("h"));
    bench.subscribe(None);
    assert_eq!(ops(&bench.sent()), ["SUBSCRIBE", "SUBSCRIBE", "SUBSCRIBE"]);
}

#[test]
fn an_id_the_hub_would_refuse_is_refused_without_it() {
    let mut bench = Bench::connected();
    let long = "x".repeat(129);
    for (id, words) in [
        ("", "id must be 1 to 128 bytes"),
        (&long, "id must be 1 to 128 bytes"),
        ("a\u{7f}", "id must not hold control characters"),
        ("$x", "id must not start with `$`"),
    ] {
        let publish = Publish { topic: "a", payload: "1", id: Some(id), options: "", timeout_ms: None };
        let request = bench.session.publish(bench.now, 0, publish);
        assert!(bench.sent().is_empty());
        let error = bench.done[&request].as_ref().unwrap_err();
        assert_eq!((error.code(), error.message()), ("bad_frame", words));
    }
}

#[test]
fn what_is_larger_than_a_frame_is_refused_and_named() {
    let mut bench = Bench::connected();
    let huge = "x".repeat(20 << 20);
    let publish = bench.publish(&format!("\"{huge}\""));
    let Err(error) = &bench.done[&publish] else { panic!("published") };
    assert_eq!((error.code(), error.retryable()), (ErrorCode::TooLarge.as_str(), false));

    let options = format!(r#"{{"filter":{{"keys":["{}"]}}}}"#, "x".repeat(limits::FRAME_BYTES));
    let (_, request) = bench.session.subscribe(bench.now, "a.*", Some("g"), &options, None);
    bench.drain();
    let Err(error) = &bench.done[&request] else { panic!("subscribed") };
    assert!(error.code() == ErrorCode::TooLarge.as_str() && error.message().contains("options"), "{error}");
    assert!(bench.sent().is_empty());
}

#[test]
fn a_token_that_no_hub_takes_is_not_sent() {
    let mut bench = Bench::new(Config { token: Some("t".repeat(20_000)), ..Config::default() });
    let connect = bench.session.connect(bench.now);
    bench.session.opened(bench.now);
    assert!(bench.sent().is_empty());
    let Err(error) = &bench.done[&connect] else { panic!("connected") };
    assert!(error.message().contains("token") && error.message().contains("16 KiB"), "{error}");
    assert_eq!(bench.session.state(), State::Closed);
}

#[test]
fn a_dead_path_is_found_before_a_publish_gives_up() {
    let mut bench = Bench::connected();
    bench.advance(20_000);
    let publish = bench.publish("1");
    let first = bench.sent();
    bench.advance(3_999);
    assert!(bench.sent().is_empty());
    bench.advance(1);
    assert_eq!(ops(&bench.sent()), ["PING"]);
    bench.advance(8_000);
    assert_eq!(bench.session.state(), State::Reconnecting);
    bench.next_deadline();
    assert_eq!(bench.login(), first, "sent again, with the same id");
    assert!(!bench.done.contains_key(&publish));
}

#[test]
fn several_frames_go_in_one_message_where_the_hub_agrees() {
    let mut bench = Bench::with_token();
    bench.session.connect(bench.now);
    bench.drain();
    bench.session.opened(bench.now);
    let auth = bench.sent().remove(0);
    assert!(auth.contains(r#""batch":true"#), "{auth}");
    assert!(!bench.session.batching());
    bench.hub(&format!(r#"{{"op":"OK","corr":"{}","batch":true}}"#, corr(&auth)));
    assert!(bench.session.batching());
    bench.reconnect();
    assert!(!bench.session.batching(), "it is agreed anew on each connection");

    let mut bench = Bench::new(Config { token: Some("t".into()), batch: false, ..Config::default() });
    bench.session.connect(bench.now);
    bench.session.opened(bench.now);
    assert!(!bench.sent()[0].contains("batch"));
}

#[test]
fn news_of_the_network_ends_the_wait_for_a_reconnect() {
    let mut bench = Bench::connected();
    bench.lose();
    assert_eq!(bench.opens, 1);
    bench.session.hurry(bench.now);
    bench.drain();
    assert_eq!(bench.opens, 2);
    bench.session.hurry(bench.now);
    bench.drain();
    assert_eq!(bench.opens, 2, "it is on its way");
}
