//! Hubs that lose, double, reorder and hang: a bench whose checks cannot fail is worth nothing.
#![expect(clippy::unwrap_used, reason = "a test that fails here says where")]

use std::{
    collections::VecDeque,
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use prom_bench::{DeliverOptions, Error, Findings, LatencyOptions, Pids, PublishOptions, Row, Scenario, Target};
use serde_json::{Value, json};
use tungstenite::{Message, WebSocket, protocol::CloseFrame};

/// What a hub does wrong, once, with the publish or event of this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    LoseAnswer(u64),
    DoubleAnswer(u64),
    /// It answers the next one first.
    SwapAnswers(u64),
    SkipSeq(u64),
    RepeatSeq(u64),
    Duplicate(u64),
    Refuse(u64),
    HangAt(u64),
    CloseAt(u64),
    TalkNonsense(u64),
    LoseEvent(u64),
    DoubleEvent(u64),
    SwapEvents(u64),
    /// The event carries another's payload.
    MixUpEvent(u64),
    /// It says OK to ACKs that it forgets.
    ForgetAcks,
}

/// One topic, one group: as much of a hub as the scenarios need.
#[derive(Default)]
struct Log {
    events: Mutex<Vec<(u64, Value)>>,
    seq: AtomicU64,
}

struct FalseHub {
    url: String,
}

impl FalseHub {
    fn start(fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("ws://{}/ws", listener.local_addr().unwrap());
        let log = Arc::new(Log::default());
        // They end with the test's process at the latest; each connection's ends with it.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let log = Arc::clone(&log);
                thread::spawn(move || serve(stream.unwrap(), fault, &log));
            }
        });
        Self { url }
    }

    fn run(&self, scenario: &Scenario) -> Result<Row, Error> {
        let mut target = Target::new(&*self.url, "any");
        // Long enough for a busy machine, where a hub is not to be taken for one that hangs.
        target.stall = Duration::from_secs(3);
        prom_bench::run(&target, scenario, Pids::default())
    }
}

/// Serves one connection until it ends.
fn serve(stream: TcpStream, fault: Fault, log: &Log) {
    let mut socket = tungstenite::accept(stream).unwrap();
    let mut member: Option<Value> = None;
    let mut delivered = 0;
    let mut held = VecDeque::new();
    stream_of(&socket).set_read_timeout(Some(Duration::from_millis(5))).unwrap();
    loop {
        let request: Value = match socket.read() {
            Ok(Message::Text(text)) => serde_json::from_str(&text).unwrap(),
            Ok(_) => continue,
            Err(tungstenite::Error::Io(error))
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
            {
                if let Some(subscribe) = &member {
                    deliver(&mut socket, subscribe, &mut delivered, fault, log);
                }
                continue;
            }
            Err(_) => return,
        };
        let mut answers: Vec<Value> = Vec::new();
        match request["op"].as_str().unwrap() {
            "PUBLISH" => {
                if let Some(error) = publish(&request, fault, log, &mut answers, &mut held) {
                    match error {
                        Fault::HangAt(_) => thread::sleep(Duration::from_secs(20)),
                        Fault::CloseAt(_) => {
                            let reason = CloseFrame { code: 1001.into(), reason: "shutting down".into() };
                            let _ = socket.close(Some(reason));
                        }
                        _ => drop(socket.send(Message::text("no JSON"))),
                    }
                    continue;
                }
            }
            "SUBSCRIBE" => {
                // A group that comes back goes on where it was, unless its acks were forgotten.
                let before = member_position(log);
                delivered = if fault == Fault::ForgetAcks { 0 } else { before };
                member = Some(request.clone());
                answers.push(json!({"op": "OK", "corr": request["corr"], "group": request["group"]}));
            }
            "PING" => answers.push(json!({"op": "PONG"})),
            "ACK" if request.get("corr").is_none() => {}
            _ => answers.push(json!({"op": "OK", "corr": request["corr"]})),
        }
        for answer in answers {
            if socket.send(Message::text(answer.to_string())).is_err() {
                return;
            }
        }
        log.seq.store(log.seq.load(Ordering::SeqCst).max(delivered), Ordering::SeqCst);
    }
}

fn stream_of(socket: &WebSocket<TcpStream>) -> &TcpStream {
    socket.get_ref()
}

/// How far any member has come.
fn member_position(log: &Log) -> u64 {
    log.seq.load(Ordering::SeqCst)
}

/// Stores and answers, or gives back the fault that ends it all.
fn publish(
    request: &Value,
    fault: Fault,
    log: &Log,
    answers: &mut Vec<Value>,
    held: &mut VecDeque<Value>,
) -> Option<Fault> {
    let number: u64 = request["corr"].as_str().unwrap().parse().unwrap();
    let mut events = log.events.lock().unwrap();
    let last = events.last().map_or(0, |(seq, _)| *seq);
    let seq = match fault {
        Fault::SkipSeq(at) if at == number => last + 2,
        Fault::RepeatSeq(at) if at == number => last,
        _ => last + 1,
    };
    let mut ok = json!({"op": "OK", "corr": request["corr"], "id": format!("id-{seq}"), "seq": seq});
    match fault {
        Fault::HangAt(at) | Fault::CloseAt(at) | Fault::TalkNonsense(at) if at == number => return Some(fault),
        Fault::Refuse(at) if at == number => {
            let refusal = json!({"op": "ERR", "code": "overloaded", "msg": "full", "corr": request["corr"]});
            answers.push(refusal);
            return None;
        }
        Fault::Duplicate(at) if at == number => ok["duplicate"] = true.into(),
        _ => {}
    }
    events.push((seq, request.clone()));
    match fault {
        Fault::LoseAnswer(at) if at == number => {}
        Fault::DoubleAnswer(at) if at == number => answers.extend([ok.clone(), ok]),
        Fault::SwapAnswers(at) if at == number => held.push_back(ok),
        _ => answers.push(ok),
    }
    if answers.len() == 1 && matches!(fault, Fault::SwapAnswers(at) if at + 1 == number) {
        answers.extend(held.drain(..));
    }
    None
}

/// Delivers what the member has not got.
fn deliver(socket: &mut WebSocket<TcpStream>, subscribe: &Value, delivered: &mut u64, fault: Fault, log: &Log) {
    let events = log.events.lock().unwrap().clone();
    let mut frames: Vec<Value> = Vec::new();
    for (seq, publish) in events.iter().filter(|(seq, _)| seq > delivered) {
        let payload = match fault {
            Fault::MixUpEvent(at) if at == *seq => &events[0].1["payload"],
            _ => &publish["payload"],
        };
        let again = fault == Fault::ForgetAcks && *seq <= member_position(log);
        let frame = json!({
            "op": "EVENT", "topic": subscribe["topic"], "group": subscribe["group"],
            "event": {"id": format!("id-{seq}"), "seq": seq, "ts": 1, "topic": publish["topic"], "payload": payload},
            "ctx": {"attempt": if again { 2 } else { 1 }, "lease": "0000000000000001"},
        });
        match fault {
            Fault::LoseEvent(at) if at == *seq => {}
            Fault::DoubleEvent(at) if at == *seq => frames.extend([frame.clone(), frame]),
            _ => frames.push(frame),
        }
        if matches!(fault, Fault::SwapEvents(at) if at + 1 == *seq) {
            let last = frames.len() - 1;
            frames.swap(last - 1, last);
        }
    }
    *delivered = events.last().map_or(*delivered, |(seq, _)| *seq);
    for frame in frames {
        // The bench may have seen enough.
        let _ = socket.send(Message::text(frame.to_string()));
    }
    log.seq.store(log.seq.load(Ordering::SeqCst).max(*delivered), Ordering::SeqCst);
}

const COUNT: u64 = 100;

fn publishing(fault: Fault) -> Result<Row, Error> {
    let options = PublishOptions { count: Some(COUNT), window: 10, ..PublishOptions::default() };
    FalseHub::start(fault).run(&Scenario::Publish(options))
}

fn delivering(fault: Fault) -> Result<Row, Error> {
    let options = DeliverOptions { count: COUNT, window: 10, in_flight: 1000, ..DeliverOptions::default() };
    FalseHub::start(fault).run(&Scenario::Deliver(options))
}

/// Lost, doubled, out of order, wrong.
fn counts(row: Result<Row, Error>) -> (u64, u64, u64, u64) {
    let Findings { lost, doubled, out_of_order, wrong, details } = row.unwrap().findings;
    assert_eq!(details.is_empty(), lost + doubled + out_of_order + wrong == 0);
    (lost, doubled, out_of_order, wrong)
}

#[test]
fn a_hub_that_does_nothing_wrong_is_not_accused() {
    assert_eq!(counts(publishing(Fault::None)), (0, 0, 0, 0));
    assert_eq!(counts(delivering(Fault::None)), (0, 0, 0, 0));
}

#[test]
fn wrong_answers_are_caught() {
    // A lost answer is a lost seq too.
    assert_eq!(counts(publishing(Fault::LoseAnswer(50))), (2, 0, 0, 0));
    assert_eq!(counts(publishing(Fault::DoubleAnswer(50))), (0, 1, 0, 0));
    assert_eq!(counts(publishing(Fault::DoubleAnswer(COUNT - 1))), (0, 1, 0, 0), "also the last");
    // The answer, and the seq with it.
    assert_eq!(counts(publishing(Fault::SwapAnswers(50))), (0, 0, 2, 0));
    assert_eq!(counts(publishing(Fault::SkipSeq(50))).0, 1);
    assert_eq!(counts(publishing(Fault::RepeatSeq(50))).1, 1);
    assert_eq!(counts(publishing(Fault::Duplicate(50))).1, 1);
}

#[test]
fn wrong_deliveries_are_caught() {
    assert_eq!(counts(delivering(Fault::LoseEvent(50))), (1, 0, 0, 0));
    assert_eq!(counts(delivering(Fault::DoubleEvent(50))), (0, 1, 0, 0));
    assert_eq!(counts(delivering(Fault::DoubleEvent(COUNT))), (0, 1, 0, 0), "also the last");
    assert_eq!(counts(delivering(Fault::SwapEvents(50))), (0, 0, 1, 0));
    assert_eq!(counts(delivering(Fault::MixUpEvent(50))), (0, 0, 0, 1));
    assert_eq!(counts(delivering(Fault::ForgetAcks)), (0, COUNT, 0, 0));
}

#[test]
fn latency_is_checked_too() {
    let options = LatencyOptions { rate: 1_000, duration: Duration::from_millis(100), payload: 256 };
    let run = |fault| counts(FalseHub::start(fault).run(&Scenario::Latency(options.clone())));
    assert_eq!(run(Fault::None), (0, 0, 0, 0));
    assert_eq!(run(Fault::DoubleEvent(50)).1, 1);
    assert_eq!(run(Fault::SwapAnswers(50)).2, 1);
    assert_eq!(run(Fault::MixUpEvent(50)).3, 1);
    let lost = FalseHub::start(Fault::LoseEvent(50)).run(&Scenario::Latency(options)).unwrap_err().to_string();
    assert_eq!(lost, "the hub has not answered for 3 s: 99 of 100 events were delivered");
}

#[test]
fn a_hub_that_does_not_go_on_is_an_error_and_no_wait() {
    let said = |fault| publishing(fault).unwrap_err().to_string();
    assert_eq!(said(Fault::HangAt(50)), "the hub has not answered for 3 s: 50 of 60 publishes were answered");
    assert_eq!(said(Fault::Refuse(50)), "the hub refused a publish: overloaded: full");
    assert_eq!(said(Fault::CloseAt(50)), "the hub closed a connection: 1001 shutting down");
    assert_eq!(said(Fault::TalkNonsense(50)), "the hub sent what is no answer: no JSON");
    // The last answer never comes.
    let error = said(Fault::LoseAnswer(COUNT - 1));
    assert_eq!(error, "the hub has not answered for 3 s: 99 of 100 publishes were answered");
}
