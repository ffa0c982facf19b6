//! A client under test: a child process that takes commands on its input and says on its output what comes of them.
//!
//! ```text
//!   call ──► writer thread ──► stdin │ driver │ stdout ──► reader thread ──► answers, what it told
//!                                    │        │ stderr ──► reader thread ──► the last lines, for reports
//! ```

use std::{
    collections::{HashMap, VecDeque},
    ffi::OsString,
    io::{BufRead, BufReader, Read, Write},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};

use crate::check::{Failure, until_changed, within};

/// Lines of output that are kept for a report.
const LINES: usize = 60;
/// Time a driver has to end by itself once its input has ended.
const GOODBYE: Duration = Duration::from_secs(3);

/// An answer that is an error.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Refused {
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) retryable: bool,
    pub(crate) retry_after_ms: Option<u64>,
}

type Answer = Result<Value, Refused>;

/// An event that a handler has begun to work on, or that a live subscription has shown.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Given {
    /// Absent: a live subscription.
    pub(crate) group: Option<String>,
    /// The topic of the event itself.
    pub(crate) topic: String,
    pub(crate) id: String,
    pub(crate) seq: u64,
    pub(crate) key: Option<String>,
    pub(crate) payload: Value,
    pub(crate) attempt: u64,
    /// The whole event.
    pub(crate) event: Value,
}

#[derive(Default)]
struct State {
    answers: HashMap<u64, oneshot::Sender<Answer>>,
    last_id: u64,
    can: Option<Vec<String>>,
    given: Vec<Given>,
    told: Vec<Value>,
    /// The driver has ended, or said what is no JSON: nothing will come of it any more.
    over: Option<String>,
    lines: VecDeque<String>,
}

struct Shared {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

/// Dropping it ends the child.
pub(crate) struct Driver {
    child: Child,
    /// None: its input is closed.
    commands: Option<mpsc::Sender<String>>,
    threads: Vec<JoinHandle<()>>,
    shared: Arc<Shared>,
    patience: Duration,
}

/// A command under way.
pub(crate) struct Call {
    what: String,
    answer: oneshot::Receiver<Answer>,
    patience: Duration,
    shared: Arc<Shared>,
}

impl Driver {
    /// Starts one and waits for its first line.
    pub(crate) async fn start(command: &[OsString], patience: Duration) -> Result<Self, Failure> {
        let [program, args @ ..] = command else { return Err(Failure::new("there is no command to start a driver")) };
        let mut child = Command::new(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| Failure::new(format!("{} cannot be started: {error}", program.display())))?;
        let shared = Arc::new(Shared { state: Mutex::default(), changed: watch::Sender::new(()) });
        let (commands, lines) = mpsc::channel::<String>();
        let mut threads = Vec::new();
        if let Some(mut input) = child.stdin.take() {
            threads.push(std::thread::spawn(move || {
                for line in lines {
                    // A driver that does not read any more has ended, which its output tells.
                    if input.write_all(line.as_bytes()).is_err() {
                        break;
                    }
                }
            }));
        }
        if let Some(output) = child.stdout.take() {
            let shared = Arc::clone(&shared);
            threads.push(std::thread::spawn(move || {
                read_lines(output, |line| shared.heard(line));
                shared.over("the driver has ended");
            }));
        }
        if let Some(output) = child.stderr.take() {
            let shared = Arc::clone(&shared);
            threads.push(std::thread::spawn(move || read_lines(output, |line| shared.lock().note(line))));
        }
        let driver = Self { child, commands: Some(commands), threads, shared, patience };
        let hello = r#"the driver's first line, {"hello":{"can":[…]}}"#;
        match driver.until(hello, |state| state.can.is_some().then_some(())).await {
            Ok(()) => Ok(driver),
            Err(Failure(words)) => {
                let lines = Arc::clone(&driver.shared);
                // Ended first, so that all it had to say is there.
                driver.end().await;
                let said: Vec<String> = lines.lock().lines.iter().map(|line| format!("\n    {line}")).collect();
                Err(Failure::new(words + &said.concat()))
            }
        }
    }

    /// What it says that its client can do.
    pub(crate) fn can(&self) -> Vec<String> {
        self.shared.lock().can.clone().unwrap_or_default()
    }

    /// Begins a command. Commands begin in the order of these calls.
    pub(crate) fn begin(&self, what: &str, mut fields: Value) -> Call {
        let (reply, answer) = oneshot::channel();
        let mut state = self.shared.lock();
        state.last_id += 1;
        let id = state.last_id;
        fields["id"] = json!(id);
        fields["do"] = json!(what);
        if state.over.is_none() {
            state.answers.insert(id, reply);
        }
        // Under the lock, so that ids are written in their order.
        if let Some(commands) = &self.commands {
            let _ = commands.send(format!("{fields}\n"));
        }
        drop(state);
        Call { what: what.to_owned(), answer, patience: self.patience, shared: Arc::clone(&self.shared) }
    }

    /// A command that must succeed.
    pub(crate) async fn ask(&self, what: &str, fields: Value) -> Result<Value, Failure> {
        self.begin(what, fields).ok().await
    }

    /// A command that must be refused.
    pub(crate) async fn refused(&self, what: &str, fields: Value) -> Result<Refused, Failure> {
        match self.begin(what, fields).answer().await? {
            Err(refused) => Ok(refused),
            Ok(answer) => Err(Failure::new(format!("{what} should be refused, and was answered {answer}"))),
        }
    }

    /// The events that were given to handlers of this group, or to live subscriptions, so far.
    pub(crate) fn given(&self, group: Option<&str>) -> Vec<Given> {
        self.shared.lock().given.iter().filter(|given| given.group.as_deref() == group).cloned().collect()
    }

    /// Waits until so many events were given to the handlers of this group.
    pub(crate) async fn until_given(&self, group: Option<&str>, count: usize) -> Result<Vec<Given>, Failure> {
        let words = group.map_or_else(|| "a live subscription".to_owned(), |group| format!("a handler of {group}"));
        let what = format!("{count} events for {words}");
        self.until(&what, |state| {
            let given = state.given.iter().filter(|given| given.group.as_deref() == group);
            (given.count() >= count).then_some(())
        })
        .await?;
        Ok(self.given(group))
    }

    /// Waits until the events that were given so far, to whomever, hold what `look` looks for.
    pub(crate) async fn until_among<T>(
        &self,
        what: &str,
        mut look: impl FnMut(&[Given]) -> Option<T>,
    ) -> Result<T, Failure> {
        self.until(what, |state| look(&state.given)).await
    }

    /// Waits for something the driver tells by itself: the value of this name, if `look` likes it.
    pub(crate) async fn told(&self, name: &str, mut look: impl FnMut(&Value) -> bool) -> Result<Value, Failure> {
        let what = format!("the driver to tell a {name}");
        self.until(&what, |state| state.told.iter().filter_map(|told| told.get(name)).find(|told| look(told)).cloned())
            .await
    }

    /// How often the driver has told of this state.
    pub(crate) fn states(&self, state: &str) -> usize {
        self.shared.lock().told.iter().filter(|told| told["state"] == state).count()
    }

    /// Waits for the client to be in that state for the `count`th time.
    pub(crate) async fn until_state(&self, name: &str, count: usize) -> Result<(), Failure> {
        let what = format!("the client to be {name} for time {count}");
        self.until(&what, |state| {
            (state.told.iter().filter(|told| told["state"] == name).count() >= count).then_some(())
        })
        .await
    }

    async fn until<T>(&self, what: &str, mut look: impl FnMut(&State) -> Option<T>) -> Result<T, Failure> {
        let look = || {
            let state = self.shared.lock();
            match (look(&state), &state.over) {
                (Some(found), _) => Some(Ok(found)),
                (None, Some(over)) => Some(Err(Failure::new(format!("{over}, while this waited for {what}")))),
                (None, None) => None,
            }
        };
        until_changed(self.patience, what, &self.shared.changed, look).await?
    }

    /// Ends the child, where it holds up no task.
    pub(crate) async fn end(self) {
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }

    /// The last lines of its output, for a report.
    pub(crate) fn last_lines(&self) -> Vec<String> {
        self.shared.lock().lines.iter().cloned().collect()
    }
}

impl Drop for Driver {
    /// Blocks for a moment; see [`Driver::end`].
    fn drop(&mut self) {
        const PAUSE: Duration = Duration::from_millis(5);
        let until = Instant::now() + GOODBYE;
        let over = || Instant::now() > until;
        // The end of its input is what tells a driver to go.
        self.commands = None;
        while !over() && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(PAUSE);
        }
        // Both do nothing to a process that has ended and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
        for thread in self.threads.drain(..) {
            // A process that the driver started and left may hold its output open: that is not waited for.
            while !over() && !thread.is_finished() {
                std::thread::sleep(PAUSE);
            }
            if thread.is_finished() {
                let _ = thread.join();
            }
        }
    }
}

impl Call {
    /// The answer, be it an error.
    pub(crate) async fn answer(self) -> Result<Answer, Failure> {
        let what = format!("the answer to {}", self.what);
        let ended = |shared: &Shared| {
            let over = shared.lock().over.clone().unwrap_or_else(|| "the driver has ended".to_owned());
            Failure::new(format!("{over}, while this waited for {what}"))
        };
        within(self.patience, &what, self.answer).await?.map_err(|_| ended(&self.shared))
    }

    /// The answer, which must be no error.
    pub(crate) async fn ok(self) -> Result<Value, Failure> {
        let what = self.what.clone();
        self.answer()
            .await?
            .map_err(|Refused { code, message, .. }| Failure::new(format!("{what} was refused: {code}: {message}")))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn over(&self, why: &str) {
        let mut state = self.lock();
        state.over.get_or_insert_with(|| why.to_owned());
        // Whoever waits for an answer is told so.
        state.answers.clear();
        drop(state);
        self.changed.send_replace(());
    }

    fn heard(&self, line: &str) {
        let wrong = match serde_json::from_str::<Value>(line) {
            Ok(said) => {
                let mut state = self.lock();
                state.note(line);
                state.take(said).err()
            }
            Err(error) => Some(format!("a line that is no JSON ({error}): {line}")),
        };
        match wrong {
            Some(wrong) => self.over(&format!("the driver wrote {wrong}")),
            None => self.changed.send_replace(()),
        }
    }
}

impl State {
    fn note(&mut self, line: &str) {
        const LONGEST: usize = 300;
        let end = line.char_indices().nth(LONGEST).map_or(line.len(), |(at, _)| at);
        self.lines.push_back(line[..end].to_owned());
        if self.lines.len() > LINES {
            self.lines.pop_front();
        }
    }

    /// What the driver said; an error is what is wrong with it.
    fn take(&mut self, said: Value) -> Result<(), String> {
        if let Some(id) = said.get("id") {
            let id = id.as_u64().ok_or_else(|| format!("an id that is no number: {said}"))?;
            let answer = match (said.get("ok"), said.get("error")) {
                (Some(ok), None) => Ok(ok.clone()),
                (None, Some(error)) => Err(refused(error).ok_or_else(|| format!("an error without a code: {said}"))?),
                _ => return Err(format!("an answer that has not one of ok and error: {said}")),
            };
            let reply = self.answers.remove(&id).ok_or_else(|| format!("an answer to nothing that is open: {said}"))?;
            // Nobody waits for it any more.
            drop(reply.send(answer));
        } else if let Some(hello) = said.get("hello") {
            let can =
                hello["can"].as_array().ok_or_else(|| format!("a hello without a list of what it can: {said}"))?;
            self.can = Some(can.iter().filter_map(|can| can.as_str().map(str::to_owned)).collect());
        } else if said.get("event").is_some() {
            let given = given(&said).ok_or_else(|| format!("an event without id, seq, topic or payload: {said}"))?;
            self.given.push(given);
        } else {
            self.told.push(said);
        }
        Ok(())
    }
}

fn refused(error: &Value) -> Option<Refused> {
    Some(Refused {
        code: error["code"].as_str()?.to_owned(),
        message: error["message"].as_str().unwrap_or_default().to_owned(),
        retryable: error["retryable"].as_bool().unwrap_or_default(),
        retry_after_ms: error["retryAfterMs"].as_u64(),
    })
}

fn given(said: &Value) -> Option<Given> {
    let event = said.get("event")?;
    Some(Given {
        group: said["group"].as_str().map(str::to_owned),
        topic: event["topic"].as_str()?.to_owned(),
        id: event["id"].as_str()?.to_owned(),
        seq: event["seq"].as_u64()?,
        key: event["key"].as_str().map(str::to_owned),
        payload: event.get("payload")?.clone(),
        attempt: said["attempt"].as_u64().unwrap_or(1),
        event: event.clone(),
    })
}

/// Calls `take` for each line until there are no more. What is no UTF-8 is read as far as it can be.
fn read_lines(output: impl Read, mut take: impl FnMut(&str)) {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    while output.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        let text = String::from_utf8_lossy(&line);
        let text = text.trim();
        if !text.is_empty() {
            take(text);
        }
        line.clear();
    }
}
