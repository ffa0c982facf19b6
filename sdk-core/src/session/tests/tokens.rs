//! Tokens: who is asked when, and which refusals end it.

use super::*;

fn provider() -> Bench {
    let mut bench = Bench::new(Config::default());
    bench.session.connect(bench.now);
    bench.drain();
    bench
}

impl Bench {
    fn give(&mut self, token: Result<&str, &str>) {
        let asked = self.asked.take().expect("a question");
        let token = token.map(str::to_owned).map_err(str::to_owned);
        self.session.token(self.now, asked, token);
        self.drain();
    }
}

#[test]
fn a_provider_is_asked_before_every_connect() {
    let mut bench = provider();
    assert_eq!(bench.opens, 0);
    bench.give(Ok("one"));
    assert_eq!(bench.opens, 1);
    bench.login();
    bench.lose();
    bench.next_deadline();
    bench.give(Ok("two"));
    bench.session.opened(bench.now);
    assert_eq!(field(&bench.sent()[0], "token"), "two");
}

#[test]
fn the_token_is_renewed_on_the_open_connection() {
    let mut bench = provider();
    bench.give(Ok("one"));
    bench.session.opened(bench.now);
    let auth = bench.sent().remove(0);
    bench.hub(&format!(r#"{{"op":"OK","corr":"{}","expires_in_ms":100000}}"#, corr(&auth)));
    for _ in 0..3 {
        bench.advance(20_000);
        bench.hub(r#"{"op":"PONG"}"#);
        assert_eq!(bench.asked, None);
    }
    bench.advance(20_000);
    bench.give(Err("the identity provider is down"));
    assert!(matches!(&bench.others[..], [Output::Error(error)] if error.code() == "no_token"));
    bench.advance(10_000);
    bench.give(Ok("two"));
    let auth = bench.sent().pop().unwrap();
    assert_eq!((field(&auth, "op"), field(&auth, "token")), ("AUTH".into(), "two".into()));
    bench.hub(&format!(r#"{{"op":"OK","corr":"{}","expires_in_ms":100000}}"#, corr(&auth)));
    assert_eq!((bench.session.state(), bench.opens), (State::Ready, 1));
    assert_eq!(bench.session.tokens.renew_at(), bench.now + 80_000);
}

#[test]
fn a_static_token_that_is_refused_ends_it() {
    for code in ["forbidden", "jwt_invalid", "unauthorized", "no_token", "token_expired"] {
        let mut bench = Bench::with_token();
        let connect = bench.session.connect(bench.now);
        bench.drain();
        bench.session.opened(bench.now);
        let auth = bench.sent().remove(0);
        bench.err(&auth, code);
        assert_eq!((bench.code(connect), bench.session.state(), bench.shuts), (code, State::Closed, 1));
    }
}

/// Applications tell a token that has expired from one that is forged by its code.
#[test]
fn a_token_that_has_expired_is_told_as_that() {
    let mut bench = Bench::with_token();
    let connect = bench.session.connect(bench.now);
    bench.drain();
    bench.session.opened(bench.now);
    let auth = bench.sent().remove(0);
    let corr = corr(&auth);
    bench.hub(&format!(r#"{{"op":"ERR","code":"jwt_invalid","msg":"m","corr":"{corr}","expired":true}}"#));
    assert_eq!((bench.code(connect), bench.session.state()), ("token_expired", State::Closed));
}

#[test]
fn a_static_token_that_runs_out_ends_it() {
    let mut bench = Bench::connected();
    bench.hub(r#"{"op":"ERR","code":"token_expired","msg":"m"}"#);
    assert_eq!(bench.session.state(), State::Closed);
}

#[test]
fn a_provider_has_three_tries() {
    let mut bench = provider();
    for _ in 0..2 {
        bench.give(Ok("bad"));
        bench.session.opened(bench.now);
        let auth = bench.sent().remove(0);
        bench.err(&auth, "jwt_invalid");
        assert_eq!(bench.session.state(), State::Reconnecting);
        bench.next_deadline();
    }
    bench.give(Ok("good"));
    bench.login();
    bench.hub(r#"{"op":"ERR","code":"token_expired","msg":"m"}"#);
    assert_eq!(bench.session.state(), State::Reconnecting, "the count began anew");
    for n in 1..=3 {
        bench.next_deadline();
        bench.give(Ok("bad"));
        bench.session.opened(bench.now);
        let auth = bench.sent().remove(0);
        bench.err(&auth, "token_expired");
        assert_eq!(bench.session.state(), if n < 3 { State::Reconnecting } else { State::Closed });
    }
}

#[test]
fn a_hub_in_trouble_is_no_refusal() {
    let mut bench = Bench::with_token();
    bench.session.connect(bench.now);
    bench.drain();
    for _ in 0..5 {
        bench.session.opened(bench.now);
        let auth = bench.sent().remove(0);
        bench.err(&auth, "store_unavailable");
        assert_eq!(bench.session.state(), State::Reconnecting);
        bench.next_deadline();
    }
}

#[test]
fn a_provider_that_fails_or_hangs_is_asked_again() {
    let mut bench = provider();
    bench.give(Err("no network"));
    assert_eq!(bench.session.state(), State::Reconnecting);
    bench.next_deadline();
    let hanging = bench.asked.take().unwrap();
    bench.advance(30_000);
    bench.next_deadline();
    let second = bench.asked.expect("asked again");
    assert_ne!(hanging, second);
    bench.session.token(bench.now, hanging, Ok("late".into()));
    bench.drain();
    assert_eq!(bench.opens, 0, "the late answer is void");
    bench.give(Ok("one"));
    assert_eq!(bench.opens, 1);
}
