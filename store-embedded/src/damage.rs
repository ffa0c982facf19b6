//! Damage of all kinds, in any file: what is read afterwards is what was written, or an error that says what is wrong;
//! and what is given up is damaged.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
};

use prom_store::{Append, CursorPut};

use crate::{keeper::Keeper, open::open, shared::Shared, sim::SimDisk, tools, *};

const TOPICS: [&str; 3] = ["a", "b.c", "d"];
const KEYS: [&str; 4] = ["k1", "k2", "k\"3", "ü4"];

type Files = BTreeMap<String, Vec<u8>>;
/// What was asked, and what was answered.
type Answers = BTreeMap<String, Result<String, StoreError>>;

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

fn options() -> Options {
    Options { cache_bytes: 2 * 1024, segment_bytes: 16 * 1024, flush_records: 1 << 20, ..Options::default() }
}

fn disk(files: &Files) -> Arc<dyn Disk> {
    Arc::new(SimDisk::with(files))
}

/// A store before it is damaged.
struct Whole {
    files: Files,
    /// Segment, end, and what it answers there, after each commit since the index was brought forward.
    states: Vec<(u32, u32, Answers)>,
    ids: Vec<String>,
}

fn commit(log: &Log, random: &mut fastrand::Rng, now: u64) {
    let mut batch = Batch { now, ..Batch::default() };
    for _ in 0..random.usize(1..5) {
        let name = *random.choice(TOPICS.iter()).unwrap();
        let key = random.bool().then(|| *random.choice(KEYS.iter()).unwrap());
        let payload = format!("[\"{}\"]", "x".repeat(random.usize(0..200)));
        let options = prom_protocol::EventOptions { key: key.map(Into::into), ..Default::default() };
        let mut body = Vec::new();
        prom_protocol::encode_event_body(&mut body, name, &options, &payload);
        let id = (random.u8(0..3) == 0).then(|| format!("mine-{now}-{}", batch.appends.len()).into());
        batch.appends.push(Append { topic: topic(name), id, ts: None, key: key.map(Into::into), body });
    }
    if random.u8(0..4) == 0 {
        let name = *random.choice(TOPICS.iter()).unwrap();
        let floor = log.shared.read().topic(&topic(name)).map_or(0, |log| log.tail);
        let cursor = Cursor { floor, delivered: floor, last_ts: now, ..Cursor::default() };
        batch.cursors.push(CursorPut { topic: topic(name), group: Group::new("g").unwrap(), cursor });
    }
    log.appender().commit(&log.shared, batch).unwrap();
}

/// Several sealed segments with index files, then some commits; closed, or as a crash leaves it.
fn build(seed: u64, closed: bool) -> Whole {
    let mut random = fastrand::Rng::with_seed(seed);
    let sim = SimDisk::default();
    let log = open(&(Arc::new(sim.clone()) as Arc<dyn Disk>), options()).unwrap();
    let shared = &log.shared;
    let mut keeper = Keeper::new(&log);
    for now in 0..160 {
        commit(&log, &mut random, 1_000 + now);
    }
    // All of the rest fits into one segment: one that was made since has nothing yet that tells of it.
    log.appender().roll(shared, 1_160, 0).unwrap();
    commit(&log, &mut random, 1_160);
    keeper.everything().unwrap();
    let mut ends = vec![shared.read().end];
    for now in 161..165 {
        commit(&log, &mut random, 1_000 + now);
        ends.push(shared.read().end);
    }
    assert!(ends.iter().all(|end| end.segment() == ends[0].segment()));
    let ids = ids(shared);
    let mut states = Vec::new();
    if closed {
        Keeper::new(&log).close().unwrap();
        let end = shared.read().end;
        states.push((end.segment(), end.offset(), answers(shared, &ids)));
    } else {
        for end in ends {
            // The store as it was after each commit: what stood behind that is not there yet.
            let mut files = sim.contents();
            files.get_mut(&append::segment_name(end.segment())).unwrap()[end.offset() as usize..].fill(0);
            let then = open(&disk(&files), options()).unwrap();
            states.push((end.segment(), end.offset(), answers(&then.shared, &ids)));
        }
    }
    let files = sim.contents();
    assert!(files.keys().filter(|name| name.ends_with(".idx")).count() >= 3, "{:?}", files.keys());
    Whole { files, states, ids }
}

fn ids(shared: &Shared) -> Vec<String> {
    let pages = TOPICS.iter().map(|name| shared.read_page(&topic(name), 0, usize::MAX, usize::MAX).unwrap());
    pages.flat_map(|page| page.events).map(|event| event.id.to_string()).collect()
}

/// Asks everything there is to ask.
fn answers(shared: &Shared, ids: &[String]) -> Answers {
    let mut answers = Answers::new();
    for name in TOPICS {
        let topic = topic(name);
        let tail = shared.read().topic(&topic).map(|log| (log.first, log.tail, log.epoch));
        answers.insert(format!("tail {name}"), Ok(format!("{tail:?}")));
        let mut after = 0;
        let events = loop {
            match shared.read_page(&topic, after, 50, usize::MAX) {
                Ok(page) if page.read_to == after => break Ok(()),
                Ok(page) => {
                    for event in page.events {
                        answers.insert(format!("event {name} {:05}", event.seq), Ok(event.text().to_owned()));
                    }
                    after = page.read_to;
                }
                Err(error) => break Err(error),
            }
        };
        answers.insert(format!("end {name}"), events.map(|()| after.to_string()));
        let latest = shared.latest_page(&topic, None, u64::MAX, 100, usize::MAX);
        let text = |page: LatestPage| match page.damaged {
            0 => Ok(page.events.iter().map(|event| event.text().to_owned()).collect::<String>()),
            left_out => Err(StoreError::Damaged(format!("{left_out} keys"))),
        };
        answers.insert(format!("newest {name}"), latest.and_then(text));
        for key in KEYS {
            let latest = shared.latest(&topic, key).map(|event| format!("{:?}", event.map(|event| event.seq)));
            answers.insert(format!("newest {name} {key}"), latest);
        }
        for ts in [0, 1_050, 1_100, 1_164, 9_999] {
            let seq = shared.seq_before_ts(&topic, ts).map(|seq| seq.to_string());
            answers.insert(format!("seq before {name} {ts}"), seq);
        }
        let cursors: Vec<_> = {
            let state = shared.read();
            let cursors = state.topic(&topic).map(|log| log.cursors.iter()).into_iter().flatten();
            cursors.map(|(group, own)| (group.to_string(), (*own.cursor).clone())).collect()
        };
        answers.insert(format!("cursors {name}"), Ok(format!("{cursors:?}")));
    }
    for id in ids {
        let state = shared.read();
        for name in TOPICS {
            let seq = state.by_name.get(&topic(name)).map(|topic| shared.find_id(&state, *topic, id));
            let seq = seq.transpose().map(|seq| format!("{:?}", seq.flatten()));
            answers.insert(format!("id {id} {name}"), seq);
        }
    }
    answers
}

/// Damages one file; answers which, and says how.
fn damage(files: &mut Files, random: &mut fastrand::Rng) -> (String, String) {
    let names: Vec<String> = files.keys().cloned().collect();
    let name = random.choice(names.iter()).unwrap().clone();
    let how = random.u8(0..10);
    if how == 9 {
        files.remove(&name);
        return (name, "deleted".into());
    }
    let bytes = files.get_mut(&name).unwrap();
    let at = random.usize(0..bytes.len().max(1));
    let said = match how {
        0 => {
            bytes.truncate(at);
            format!("truncated to {at}")
        }
        1 => {
            let more: Vec<u8> = (0..random.usize(1..5_000)).map(|_| random.u8(..)).collect();
            bytes.extend_from_slice(&more);
            format!("{} bytes longer", more.len())
        }
        2 => {
            let end = bytes.len().min(at + random.usize(1..3_000));
            bytes[at..end].fill(0);
            format!("zeros from {at} to {end}")
        }
        _ => {
            let places: Vec<usize> = (0..random.usize(1..4)).map(|_| random.usize(0..bytes.len() * 8)).collect();
            for bit in &places {
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            format!("bits {places:?} flipped")
        }
    };
    (name, said)
}

/// What answers, where they are answers, are not those of that state.
fn wrong<'a>(found: &'a Answers, truth: &'a Answers) -> Vec<String> {
    let mut wrong = Vec::new();
    for name in TOPICS {
        // A read that ends with an error may have given less, and never something else.
        let broke = found.get(&format!("end {name}")).is_some_and(Result::is_err);
        let missing =
            truth.keys().filter(|key| key.starts_with(&format!("event {name} ")) && !found.contains_key(*key));
        if !broke {
            wrong.extend(missing.map(|key| format!("{key} is missing")));
        }
    }
    for (question, answer) in found {
        match (answer, truth.get(question)) {
            (Ok(own), Some(Ok(truth))) if own == truth => {}
            (Err(StoreError::Damaged(_) | StoreError::Unavailable(_)), _) => {}
            (own, truth) => wrong.push(format!("{question}: {own:?} and not {truth:?}")),
        }
    }
    wrong
}

/// Whether every commit of the log's end that is not there was damaged itself.
fn was_hit(whole: &Whole, damaged: &Files, end: (u32, u32)) -> bool {
    let ends = whole.states.iter().map(|(segment, end, _)| (*segment, *end));
    let lost: Vec<_> = ends.skip_while(|own| *own < end).collect();
    lost.windows(2).all(|pair| {
        let name = append::segment_name(pair[0].0);
        let range = pair[0].1 as usize..pair[1].1 as usize;
        damaged.get(&name).is_none_or(|bytes| bytes.get(range.clone()) != whole.files[&name].get(range))
    })
}

fn check(whole: &Whole, seed: u64, counts: &mut [usize; 4]) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut files = whole.files.clone();
    let (name, how) = damage(&mut files, &mut random);
    let what = format!("seed {seed}: {name} {how}");
    if files == whole.files {
        return;
    }
    let run = || -> Result<(), String> {
        let sim = SimDisk::with(&files);
        let report = tools::verify_on(Arc::new(sim.clone())).map_err(|error| error.to_string());
        if sim.contents() != files {
            return Err("verify changed something".into());
        }
        let mut read_all = false;
        match open(&disk(&files), options()) {
            Ok(log) => {
                let end = log.shared.read().end;
                let end = (end.segment(), end.offset());
                let Some((.., truth)) = whole.states.iter().find(|(segment, own, _)| (*segment, *own) == end) else {
                    return Err(format!("it ends in {end:?}"));
                };
                if !was_hit(whole, &files, end) {
                    return Err(format!("whole commits behind {end:?} are lost"));
                }
                let found = answers(&log.shared, &whole.ids);
                let wrong = wrong(&found, truth);
                if !wrong.is_empty() {
                    return Err(format!("wrong answers: {wrong:#?}"));
                }
                read_all = found.values().all(Result::is_ok);
                counts[usize::from(!read_all)] += 1;
            }
            Err(OpenError::Damaged { .. }) => counts[2] += 1,
            Err(error) => return Err(format!("it does not open: {error}")),
        }
        let report = match report {
            Ok(report) => report,
            Err(error) if error.contains("version") => return Ok(()),
            Err(error) => return Err(format!("verify: {error}")),
        };
        if !read_all && report.is_whole() {
            return Err(format!("verify finds nothing: {report:?}"));
        }
        if report.is_whole() {
            return Ok(());
        }
        counts[3] += 1;
        repaired(whole, &files, &report)
    };
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => panic!("{what}: {error}"),
        Err(_) => panic!("{what}: a panic"),
    }
}

/// Whatever verify does not call lost is there after a repair, and nothing else.
fn repaired(whole: &Whole, files: &Files, report: &tools::Report) -> Result<(), String> {
    let sim = SimDisk::with(files);
    let done = tools::compact_on(&(Arc::new(sim.clone()) as Arc<dyn Disk>), options(), true)
        .map_err(|error| format!("repair: {error}"))?;
    if done.lost != report.lost {
        return Err(format!("verify said {:?}, and {:?} was given up", report.lost, done.lost));
    }
    let log = open(&disk(&sim.contents()), options()).map_err(|error| format!("after the repair: {error}"))?;
    let found = answers(&log.shared, &whole.ids);
    let (.., truth) = whole.states.last().unwrap();
    let mut gone = 0;
    for (question, own) in &found {
        let own = own.as_ref().map_err(|error| format!("after the repair: {question}: {error}"))?;
        if question.starts_with("event ") && truth.get(question) != Some(&Ok(own.clone())) {
            return Err(format!("after the repair: {question}: {own} and not {:?}", truth.get(question)));
        }
    }
    for question in truth.keys().filter(|key| key.starts_with("event ") && !found.contains_key(*key)) {
        gone += 1;
        let mut words = question.split(' ').skip(1);
        let (name, seq) = (words.next().unwrap(), words.next().unwrap().parse::<u64>().unwrap());
        let declared = done.lost.iter().any(|lost| {
            let within = lost.events.iter().any(|(first, last)| (*first..=*last).contains(&seq));
            lost.topic == name && (within || lost.unsure_after.is_some_and(|after| seq > after))
        });
        if !declared {
            return Err(format!("{question} was given up in silence: {:?}", done.lost));
        }
    }
    // One damaged place hits few events, unless a segment is gone.
    let segments_gone = files.keys().filter(|name| name.ends_with(".log")).count()
        < whole.files.keys().filter(|name| name.ends_with(".log")).count();
    if gone > 60 && !segments_gone {
        return Err(format!("{gone} events were given up"));
    }
    let again = tools::verify_on(disk(&sim.contents())).map_err(|error| error.to_string())?;
    if again.is_whole() { Ok(()) } else { Err(format!("still damaged after the repair: {again:?}")) }
}

fn seeds() -> u64 {
    std::env::var("PROM_DAMAGE_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(60)
}

#[test]
fn a_damaged_store_that_was_closed_answers_right_or_not_at_all() {
    let mut counts = [0; 4];
    for seed in 0..seeds() {
        let whole = WHOLE.with(|whole| Arc::clone(&whole.0));
        check(&whole, seed, &mut counts);
    }
    println!("answered all, answered in part, refused, repaired: {counts:?}");
}

#[test]
fn a_damaged_store_that_crashed_answers_right_or_not_at_all() {
    let mut counts = [0; 4];
    for seed in 0..seeds() {
        let whole = WHOLE.with(|whole| Arc::clone(&whole.1));
        check(&whole, seed, &mut counts);
    }
    println!("answered all, answered in part, refused, repaired: {counts:?}");
}

#[test]
fn a_repair_that_is_cut_short_is_done_by_doing_it_again() {
    let whole = WHOLE.with(|whole| Arc::clone(&whole.0));
    let mut files = whole.files.clone();
    let name = append::segment_name(3);
    files.get_mut(&name).unwrap()[5_000] ^= 1;
    files.get_mut(&append::segment_name(5)).unwrap()[20] ^= 1;
    let report = tools::verify_on(disk(&files)).unwrap();
    let expected: Vec<_> = report.lost.iter().map(|lost| (&lost.topic, &lost.events)).collect();
    assert_eq!(expected.iter().map(|(_, events)| events.len()).sum::<usize>(), 1, "{report:?}");
    let mut random = fastrand::Rng::with_seed(1);
    for crash in 0.. {
        let sim = SimDisk::with(&files);
        sim.crash_in(crash);
        let done = tools::compact_on(&(Arc::new(sim.clone()) as Arc<dyn Disk>), options(), true);
        let sim = sim.restart(&mut random);
        let again = tools::compact_on(&(Arc::new(sim.clone()) as Arc<dyn Disk>), options(), true).unwrap();
        let log = open(&disk(&sim.contents()), options()).unwrap_or_else(|error| panic!("crash {crash}: {error}"));
        for lost in &report.lost {
            assert_eq!(log.shared.read().topic(&topic(&lost.topic)).unwrap().missing(), lost.events, "crash {crash}");
        }
        let found = answers(&log.shared, &whole.ids);
        let events = |answers: &Answers| answers.keys().filter(|key| key.starts_with("event ")).count();
        assert_eq!(events(&found) + 1, events(&whole.states.last().unwrap().2), "crash {crash}");
        assert!(sim.contents().contains_key(&format!("{name}.damaged")), "crash {crash}");
        if done.is_ok() {
            assert!(again.lost.is_empty() && again.kept.is_empty(), "there is nothing more to do");
            assert!(crash > 20);
            return;
        }
    }
}

thread_local! {
    static WHOLE: (Arc<Whole>, Arc<Whole>) = (Arc::new(build(1, true)), Arc::new(build(2, false)));
}
