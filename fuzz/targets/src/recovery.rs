//! The log of a store on disk, opened when it is not what was written.

use std::sync::LazyLock;

use prom_protocol::Topic;
use prom_store_embedded::fuzzing::{Files, Lie, Log, lying, verify};

const NAMES: [&str; 6] = ["a", "b.c", "dlq.a", "$own", "a..b", "d"];
const IDS: [&str; 6] = ["one", "two", "q\"uote", "ü", "", "0190aa00-0000-7000-8000-000000000001"];
const KEYS: [&str; 5] = ["k", "l", "q\"uote", "ü", ""];
/// Most damages, commits and records of an input: what comes later would only be slow.
const MOST: usize = 24;

/// Behind a zero byte: a log that says anything, its checksums right. Else: damage, of six bytes each, to a log that was
/// whole.
pub fn recovery(data: &[u8]) {
    match data {
        [0, lies @ ..] => told(lies),
        [choice, damage @ ..] => damaged(*choice, damage),
        [] => {}
    }
}

// ---- damage ----

/// What a topic had after each commit since the last segment began.
struct Whole {
    files: Files,
    states: Vec<State>,
}

struct State {
    end: (String, usize),
    events: Vec<(Topic, Vec<String>)>,
}

fn texts(log: &Log, topic: &Topic) -> (Vec<String>, bool) {
    let (events, error) = log.events(topic);
    (events.iter().map(|event| event.text().to_owned()).collect(), error.is_none())
}

fn state(log: &Log) -> State {
    let mut topics = log.topics();
    topics.sort_unstable();
    let events = topics.into_iter().map(|topic| (topic.clone(), texts(log, &topic).0)).collect();
    State { end: log.end(), events }
}

static WHOLE: LazyLock<Whole> = LazyLock::new(|| {
    let log = Log::new().expect("a new log");
    let mut states = Vec::new();
    let mut indexed = false;
    for now in 0..120 {
        let events = [("a", Some("k")), ("b.c", None), ("a", Some("q\"uote"))];
        log.commit(now, &events[..1 + now as usize % 3], (now % 4 == 0).then_some("g")).expect("a commit");
        if states.last().is_some_and(|last: &State| last.end.0 != log.end().0) {
            // Only behind the beginning of the last segment may a log end early.
            states.clear();
        }
        states.push(state(&log));
        if now >= 50 && states.len() == 2 && !indexed {
            log.tidy().expect("an index");
            indexed = true;
            // What the index knows of cannot be missing any more.
            states.clear();
            states.push(state(&log));
        }
        if indexed && states.len() >= 6 {
            break;
        }
    }
    assert!(indexed && states.len() >= 4, "{} states", states.len());
    let files = log.files();
    assert!(files.keys().filter(|name| name.ends_with(".idx")).count() >= 2, "{:?}", files.keys());
    Whole { files, states }
});

fn damaged(choice: u8, damage: &[u8]) {
    let whole = &*WHOLE;
    let mut files = whole.files.clone();
    // The index itself is redb's, which answers some damage with a panic that the store catches and a fuzzer does not.
    let names: Vec<String> = files.keys().filter(|name| !name.ends_with(".redb")).cloned().collect();
    let without_index = choice & 1 == 0;
    if without_index {
        files.retain(|name, _| !name.ends_with(".redb"));
    }
    for op in damage.chunks_exact(6).take(MOST) {
        let [what, file, high, low, value, length] = *op else { continue };
        let name = &names[usize::from(file) % names.len()];
        let Some(bytes) = files.get_mut(name) else { continue };
        let at = usize::from(u16::from_be_bytes([high, low])) % bytes.len().max(1);
        match what % 8 {
            0 => bytes.truncate(at),
            1 => bytes.extend(std::iter::repeat_n(value, usize::from(length) * 16)),
            2 => {
                let end = bytes.len().min(at + usize::from(length) * 16);
                bytes[at..end].fill(value);
            }
            3 => drop(files.remove(name)),
            4 => {
                // A piece of the file stands elsewhere in it.
                let (from, to) = (usize::from(value) * 16 % bytes.len().max(1), at);
                let length = usize::from(length).min(bytes.len() - from.max(to));
                bytes.copy_within(from..from + length, to);
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= value;
                }
            }
        }
    }
    // A log of which a segment that was sealed is gone without anything that tells of it cannot know that: without the index
    // its last segments may be missing.
    let last = &whole.states[0].end.0;
    let opened = match Log::open(&files) {
        Ok(opened) => opened,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    if without_index && !files.contains_key(last) {
        return;
    }
    let end = opened.end();
    let Some(truth) = whole.states.iter().position(|state| state.end == end) else {
        // Without the index nothing tells whether what stood in front of the last commits was durable.
        assert!(without_index && end.0 == *last && end.1 < whole.states[0].end.1, "it ends in {end:?}");
        assert!(hit(whole, &files, end.1, whole.states[0].end.1), "whole commits behind {end:?} are lost");
        return;
    };
    let lost = &whole.states[truth..];
    assert!(
        lost.windows(2).take(1).all(|pair| hit(whole, &files, pair[0].end.1, pair[1].end.1)),
        "whole commits behind {end:?} are lost"
    );
    for (topic, expected) in &whole.states[truth].events {
        let (found, all) = texts(&opened, topic);
        assert!(expected.starts_with(&found), "{topic} gives what was not written: {found:#?}, not {expected:#?}");
        assert!(
            !all || found.len() == expected.len(),
            "{topic} leaves out events in silence: {} of {}",
            found.len(),
            expected.len()
        );
        opened.ask(topic, "k", "mine-3-1", 1_000_020);
    }
}

/// Whether these bytes of the last segment are not what was written.
fn hit(whole: &Whole, files: &Files, from: usize, to: usize) -> bool {
    let name = &whole.states[0].end.0;
    files.get(name).is_none_or(|bytes| bytes.get(from..to) != whole.files[name].get(from..to))
}

// ---- lies ----

fn told(data: &[u8]) {
    let mut segments = vec![vec![Vec::new()]];
    for op in data.chunks_exact(7).take(MOST) {
        let [what, number, name, a, b, c, d] = *op else { continue };
        let seq = |byte: u8| match byte {
            // Near the ends of what a seq can be; what is beyond 2^53 no hub has given.
            250.. => (1 << 53) - u64::from(byte - 250) - 1,
            small => u64::from(small % 16),
        };
        let pick = |list: &[&str], byte: u8| list[usize::from(byte) % list.len()].to_owned();
        let topic = u32::from(number % 5);
        let lie = match what % 8 {
            0 | 1 => Lie::Topic {
                number: topic,
                name: pick(&NAMES, name),
                numbers: [u64::from(a), seq(b), seq(c)],
                holes: if d & 1 == 0 { Vec::new() } else { vec![(seq(d >> 1), seq(d >> 2))] },
            },
            2..=4 => Lie::Event {
                topic,
                name: pick(&NAMES, name),
                seq: seq(a),
                ts: seq(b),
                id: pick(&IDS, c),
                key: (d & 1 == 0).then(|| pick(&KEYS, d >> 1)),
                listed: d & 64 != 0,
                moved: d & 128 != 0,
            },
            5 => Lie::Cursor {
                topic,
                group: pick(&["g", "$own", "h i", ""], name),
                numbers: [u64::from(a), seq(b), seq(c)],
            },
            6 => Lie::Raw { kind: number, flags: name, body: vec![a; usize::from(b)] },
            _ if number & 1 == 0 => {
                segments.push(vec![Vec::new()]);
                continue;
            }
            _ => {
                segments.last_mut().expect("there is one").push(Vec::new());
                continue;
            }
        };
        let commits = segments.last_mut().expect("there is one");
        commits.last_mut().expect("there is one").push(lie);
    }
    let files = lying(&segments);
    let Ok(log) = Log::open(&files) else {
        let _ = verify(&files);
        return;
    };
    for topic in log.topics() {
        let (events, _) = log.events(&topic);
        assert!(events.is_sorted_by(|one, next| one.seq < next.seq), "{topic} out of order");
        log.ask(&topic, "k", "one", 7);
    }
    let _ = verify(&files);
    // It can be written, and opened again or not: events of a topic that nothing is said of count once there is one.
    let _ = log.commit(5, &[("a", Some("k")), ("e", None)], Some("g"));
    if log.tidy().is_ok() {
        let _ = Log::open(&log.files());
    }
}
