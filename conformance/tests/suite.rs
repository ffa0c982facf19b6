//! The suite on the Rust SDK; and on clients that are broken in one way each, which it must find.

use std::time::Duration;

use futures_util::future::join_all;
use prom_conformance::{FrameVerdict as Frame, Options, Rule, Side, Verdict, run};
use serde_json::json;

const DRIVER: &str = env!("CARGO_BIN_EXE_prom-conformance-rust");

#[tokio::test(flavor = "multi_thread")]
async fn the_rust_sdk_does_all_of_it() {
    let mut options = Options::new([DRIVER]);
    // Only a defect meets it, also on a machine that is busy with other work.
    options.patience = Duration::from_secs(300);
    let seed = options.seed;
    let mut wrong = Vec::new();
    let ended = run(options, |one| match &one.verdict {
        Verdict::Passed => {}
        Verdict::Failed(failure, report) => {
            wrong.push(format!("{}, seed {seed}: {failure}\n{}", one.name, report.join("\n")));
        }
        Verdict::Skipped(missing) => wrong.push(format!("{} was skipped: {missing:?}", one.name)),
    })
    .await;
    let ended = ended.unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(ended.len() > 50, "only {} scenarios were played", ended.len());
}

/// Changes frames of the client as if it had been written that way.
fn client(mut change: impl FnMut(&serde_json::Value) -> Frame + Send + 'static) -> Rule {
    Box::new(move |side, frame| if side == Side::Client { change(frame) } else { Frame::Pass })
}

fn forgets_to_acknowledge() -> Rule {
    client(|frame| if frame["op"] == "ACK" { Frame::Swallow } else { Frame::Pass })
}

fn makes_a_new_id_for_each_try() -> Rule {
    let mut tries = 0;
    client(move |frame| {
        if frame["op"] != "PUBLISH" {
            return Frame::Pass;
        }
        tries += 1;
        let mut frame = frame.clone();
        frame["opts"]["id"] = json!(format!("try-{tries}"));
        Frame::Replace(frame)
    })
}

fn gives_no_reason() -> Rule {
    client(|frame| {
        let mut frame = frame.clone();
        match frame.as_object_mut().and_then(|fields| fields.remove("reason")) {
            Some(_) => Frame::Replace(frame),
            None => Frame::Pass,
        }
    })
}

fn forgets_its_subscriptions_with_the_connection() -> Rule {
    let mut connections = 0;
    client(move |frame| {
        connections += u32::from(frame["op"] == "AUTH");
        if frame["op"] == "SUBSCRIBE" && connections > 1 { Frame::Swallow } else { Frame::Pass }
    })
}

fn uses_leases_of_another_connection() -> Rule {
    client(|frame| {
        if frame["op"] != "ACK" {
            return Frame::Pass;
        }
        // A second one for what is settled: the hub does not mind, the protocol does.
        let mut old = frame.clone();
        old["lease"] = json!("00000000000000ff");
        Frame::Replace(old)
    })
}

fn leaves_only_in_words() -> Rule {
    client(|frame| match (frame["op"].as_str(), frame.get("corr")) {
        (Some("UNSUBSCRIBE"), Some(corr)) => Frame::Answer(json!({"op": "OK", "corr": corr})),
        _ => Frame::Pass,
    })
}

fn never_extends() -> Rule {
    client(|frame| if frame["op"] == "MODACK" { Frame::Swallow } else { Frame::Pass })
}

fn never_asks_for_batches() -> Rule {
    client(|frame| {
        let mut frame = frame.clone();
        match frame.as_object_mut().and_then(|fields| fields.remove("batch")) {
            Some(_) => Frame::Replace(frame),
            None => Frame::Pass,
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_broken_is_caught_by_name() {
    type Broken = (fn() -> Rule, &'static str, &'static str);
    let broken: [Broken; 9] = [
        (forgets_to_acknowledge, "what_a_handler_finished_is_acknowledged", "to be unsettled in g, as the hub has it"),
        (makes_a_new_id_for_each_try, "an_answer_that_is_lost_makes_no_second_event", "the answer in round 1"),
        (
            makes_a_new_id_for_each_try,
            "publishes_through_fifty_cuts_are_stored_once_each",
            "events are stored more than once",
        ),
        (gives_no_reason, "a_failed_handler_gets_its_event_again_then_it_is_a_dead_letter", "does not say why"),
        (
            forgets_its_subscriptions_with_the_connection,
            "a_group_goes_on_after_its_hub_was_killed",
            "the events of both halves",
        ),
        (uses_leases_of_another_connection, "what_a_handler_finished_is_acknowledged", "to be unsettled in g"),
        (leaves_only_in_words, "what_was_left_comes_no_more", "how often the hub was told"),
        (never_extends, "a_lease_is_kept_while_its_handler_runs", "frames MODACK"),
        (never_asks_for_batches, "several_frames_in_a_message_are_read_and_sent", "the hub did not agree"),
    ];
    let plays = broken.map(|(fault, name, words)| async move {
        let mut options = Options::new([DRIVER]);
        // That nothing comes of it is what is waited for.
        options.patience = Duration::from_secs(10);
        options.only = vec![name.to_owned()];
        options.meddler = Some(fault);
        let ended = run(options, |_| {}).await.unwrap();
        let [one] = &ended[..] else { panic!("{name} is the name of {} scenarios", ended.len()) };
        let Verdict::Failed(failure, report) = &one.verdict else { panic!("{name} did not find it") };
        assert!(failure.to_string().contains(words), "{name} failed for another reason: {failure}");
        assert!(!report.is_empty());
    });
    join_all(plays).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_no_driver_is_told() {
    let short = |command: &[&str]| {
        let mut options = Options::new(command);
        options.patience = Duration::from_secs(60);
        run(options, |_| {})
    };
    let told =
        |result: Result<Vec<prom_conformance::Ended>, prom_conformance::Failure>| result.unwrap_err().to_string();
    let error = told(short(&["no-such-program"]).await);
    assert!(error.contains("no-such-program cannot be started"), "{error}");
    #[cfg(unix)]
    {
        let error = told(short(&["sh", "-c", "echo hello"]).await);
        assert!(error.contains("a line that is no JSON"), "{error}");
        let error = told(short(&["sh", "-c", "echo 'no module named x' >&2"]).await);
        assert!(error.contains("the driver has ended") && error.contains("no module named x"), "{error}");
        let error = told(short(&["sh", "-c", r#"echo '{"hello":{"can":["fly"]}}'; cat"#]).await);
        assert!(error.contains("it can fly"), "{error}");
    }
    let mut options = Options::new([DRIVER]);
    options.only = vec!["no such".to_owned()];
    assert!(told(run(options, |_| {}).await).contains("no scenario with no such in its name"));
}
