//! Runs scenarios beside one another and tells how they ended.

use std::{
    ffi::OsString,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, StreamExt, stream};

use crate::{
    check::{Failure, Outcome},
    driver::Driver,
    laws,
    scenario::{Can, Scenario},
    scenarios,
    stage::{Setting, Stage},
    tap::Rule,
};

/// What to run, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// The command that starts a driver: the program and its arguments.
    pub command: Vec<OsString>,
    /// Only scenarios whose name holds one of these; all if there are none.
    pub only: Vec<String>,
    /// Scenarios that play at the same time.
    pub jobs: usize,
    /// Deadline of every wait.
    pub patience: Duration,
    /// Of everything that is random.
    pub seed: u64,
    /// Makes what changes the client's frames before anything sees them, as if the client had sent them so. With it the
    /// suite's own tests show that a broken client is caught.
    pub meddler: Option<fn() -> Rule>,
}

impl Options {
    /// All scenarios, four at a time, with a minute for every wait and a new seed.
    pub fn new(command: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self {
            command: command.into_iter().map(Into::into).collect(),
            only: Vec::new(),
            jobs: 4,
            patience: Duration::from_secs(60),
            // Short enough to be typed.
            seed: fastrand::u64(..1_000_000_000),
            meddler: None,
        }
    }
}

/// How a scenario ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// All was right.
    Passed,
    /// Something was wrong, and what was seen before it.
    Failed(Failure, Vec<String>),
    /// The client cannot do this.
    Skipped(Vec<Can>),
}

/// A scenario that has ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Its name.
    pub name: &'static str,
    /// How it ended.
    pub verdict: Verdict,
    /// How long it took.
    pub took: Duration,
}

/// All scenarios there are.
pub fn all() -> Vec<Scenario> {
    scenarios::all()
}

/// Plays the scenarios that were asked for, calls `tell` as each ends, and returns them all in that order.
///
/// # Errors
/// No driver can be started, or there is no scenario of that name.
pub async fn run(options: Options, mut tell: impl FnMut(&Ended)) -> Result<Vec<Ended>, Failure> {
    let Options { command, only, jobs, patience, seed, meddler } = options;
    let wanted = |scenario: &Scenario| only.is_empty() || only.iter().any(|part| scenario.name.contains(part.as_str()));
    let chosen: Vec<Scenario> = all().into_iter().filter(wanted).collect();
    if chosen.is_empty() {
        return Err(Failure::new(format!("there is no scenario with {} in its name", only.join(" or "))));
    }
    let probe = Driver::start(&command, patience).await?;
    let can = probe.can();
    probe.end().await;
    if let Some(unknown) = can.iter().find(|name| !Can::ALL.iter().any(|can| can.name() == name.as_str())) {
        return Err(Failure::new(format!("the driver says that it can {unknown}, which no scenario knows")));
    }
    let setting = Arc::new(Setting { command, patience, seed, meddler });
    let mut playing =
        stream::iter(chosen).map(|scenario| play(scenario, &can, Arc::clone(&setting))).buffer_unordered(jobs.max(1));
    let mut ended = Vec::new();
    while let Some(one) = playing.next().await {
        tell(&one);
        ended.push(one);
    }
    Ok(ended)
}

async fn play(scenario: Scenario, can: &[String], setting: Arc<Setting>) -> Ended {
    let began = Instant::now();
    let missing: Vec<Can> =
        scenario.needs.iter().copied().filter(|need| !can.iter().any(|can| can == need.name())).collect();
    let verdict = if missing.is_empty() { on_stage(&scenario, &setting).await } else { Verdict::Skipped(missing) };
    Ended { name: scenario.name, verdict, took: began.elapsed() }
}

async fn on_stage(scenario: &Scenario, setting: &Arc<Setting>) -> Verdict {
    let stage = match Stage::set(setting, scenario.store).await {
        Ok(stage) => stage,
        Err(failure) => return Verdict::Failed(failure, Vec::new()),
    };
    // One that panics is a failure like any other.
    let played = AssertUnwindSafe((scenario.play)(&stage)).catch_unwind().await;
    let outcome = played
        .unwrap_or_else(|panic| Err(Failure::new(format!("the scenario itself failed: {}", words(&*panic)))))
        .and_then(|()| lawful(&stage));
    let verdict = match outcome {
        Ok(()) => Verdict::Passed,
        Err(failure) => Verdict::Failed(failure, stage.report()),
    };
    stage.end().await;
    verdict
}

fn lawful(stage: &Stage) -> Outcome {
    match &laws::broken(&stage.tap.seen())[..] {
        [] => Ok(()),
        broken => Err(Failure::new(format!("a rule of the protocol is broken: {}", broken.join("; ")))),
    }
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it panicked").to_owned()
}
