//! A man in the middle who understands frames: writes down all of them, and changes what a scenario tells it to.
//!
//! ```text
//!   client ──► Relay (cuts, delays, pieces, silence) ──► Tap (frames seen and changed) ──► hub
//! ```

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{Sink, SinkExt, Stream, StreamExt};
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
};
use tokio_tungstenite::{
    accept_async, connect_async,
    tungstenite::{self, Message, Utf8Bytes, protocol::CloseFrame},
};

use crate::check::{Failure, until_changed};

/// Frames that are kept at most; the oldest go first. Far more than any scenario makes.
const KEPT: usize = 200_000;

/// Who sent a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The client under test.
    Client,
    /// The hub.
    Hub,
}

/// A frame that passed.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Which connection it came by: 0, 1, 2…
    pub line: usize,
    /// Who sent it.
    pub side: Side,
    /// Number of its message; frames of one message have the same.
    pub message: usize,
    /// The frame; a string with the text where that is not JSON.
    pub frame: Value,
    /// Time since the scenario began.
    pub at: Duration,
}

impl Seen {
    /// The frame is one of this op, sent by this side.
    pub(crate) fn is(&self, side: Side, op: &str) -> bool {
        self.side == side && self.frame["op"] == op
    }
}

/// What becomes of a frame.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It goes on as it is.
    Pass,
    /// It is lost.
    Swallow,
    /// This goes on instead.
    Replace(Value),
    /// It is lost, and this goes back to who sent it. Of the client's frames only.
    Answer(Value),
}

/// Decides about each frame.
pub type Rule = Box<dyn FnMut(Side, &Value) -> Verdict + Send>;

#[derive(Default)]
struct Log {
    seen: VecDeque<Seen>,
    lines: usize,
    messages: usize,
}

struct Shared {
    began: Instant,
    hub: Mutex<SocketAddr>,
    log: Mutex<Log>,
    changed: watch::Sender<()>,
    rule: Mutex<Option<Rule>>,
    /// Changes the client's frames before anything else looks at them.
    meddler: Mutex<Option<Rule>>,
    /// The way to the client of each line that is open.
    clients: Mutex<Vec<mpsc::UnboundedSender<Word>>>,
}

/// What is said to a client in the hub's place.
#[derive(Clone)]
enum Word {
    Frame(Value),
    /// The connection is closed with this code.
    Close(u16),
}

/// See the module. Dropping it ends its connections.
pub(crate) struct Tap {
    pub(crate) address: SocketAddr,
    patience: Duration,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A rule that panicked fails its scenario; what was written down is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tap {
    pub(crate) async fn start(hub: SocketAddr, patience: Duration, meddler: Option<Rule>) -> Result<Self, Failure> {
        let no_port = |error| Failure::new(format!("the tap has no port: {error}"));
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(no_port)?;
        let address = listener.local_addr().map_err(no_port)?;
        let shared = Arc::new(Shared {
            began: Instant::now(),
            hub: Mutex::new(hub),
            log: Mutex::default(),
            changed: watch::Sender::new(()),
            rule: Mutex::new(None),
            meddler: Mutex::new(meddler),
            clients: Mutex::default(),
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { address, patience, shared, task })
    }

    /// Sends new connections to another hub.
    pub(crate) fn lead_to(&self, hub: SocketAddr) {
        *lock(&self.shared.hub) = hub;
    }

    /// From now on `rule` decides about each frame.
    pub(crate) fn rule(&self, rule: impl FnMut(Side, &Value) -> Verdict + Send + 'static) {
        *lock(&self.shared.rule) = Some(Box::new(rule));
    }

    /// From now on everything passes.
    pub(crate) fn pass(&self) {
        *lock(&self.shared.rule) = None;
    }

    /// Sends the client a frame on every line, as if it came from the hub.
    pub(crate) fn inject(&self, frame: &Value) {
        self.say(&Word::Frame(frame.clone()));
    }

    /// Closes every line with this code, as if the hub did.
    pub(crate) fn close(&self, code: u16) {
        self.say(&Word::Close(code));
    }

    fn say(&self, word: &Word) {
        lock(&self.shared.clients).retain(|client| client.send(word.clone()).is_ok());
    }

    /// All frames so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.log).seen.iter().cloned().collect()
    }

    /// How many frames of this op this side has sent.
    pub(crate) fn count(&self, side: Side, op: &str) -> usize {
        lock(&self.shared.log).seen.iter().filter(|seen| seen.is(side, op)).count()
    }

    /// Waits until the frames so far hold what `look` looks for.
    pub(crate) async fn until<T>(
        &self,
        what: &str,
        mut look: impl FnMut(&VecDeque<Seen>) -> Option<T>,
    ) -> Result<T, Failure> {
        let look = || look(&lock(&self.shared.log).seen);
        until_changed(self.patience, what, &self.shared.changed, look).await
    }

    /// Waits until this side has sent so many frames of this op.
    pub(crate) async fn until_count(&self, side: Side, op: &str, count: usize) -> Result<(), Failure> {
        let what = format!("{count} frames {op} of the {side:?}");
        self.until(&what, |seen| (seen.iter().filter(|seen| seen.is(side, op)).count() >= count).then_some(())).await
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut lines = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                lines.spawn(line(client, Arc::clone(&shared)));
            }
            Some(_) = lines.join_next() => {}
        }
    }
}

/// How a line ended.
enum End {
    /// Without a word.
    Cut,
    /// This side closed it.
    Closed(Side, Option<CloseFrame>),
}

async fn line(client: TcpStream, shared: Arc<Shared>) {
    let address = *lock(&shared.hub);
    // No hub, no connection: the client sees its own fail.
    let Ok((hub, _)) = connect_async(format!("ws://{address}/ws")).await else { return };
    let _ = client.set_nodelay(true);
    let Ok(client) = accept_async(client).await else { return };
    let number = {
        let mut log = lock(&shared.log);
        log.lines += 1;
        log.lines - 1
    };
    let (answers, answered) = mpsc::unbounded_channel();
    lock(&shared.clients).push(answers.clone());
    let ((mut client_out, mut client_in), (mut hub_out, mut hub_in)) = (client.split(), hub.split());
    let end = tokio::select! {
        end = up(&shared, number, &mut client_in, &mut hub_out, &answers) => end,
        end = down(&shared, number, &mut hub_in, &mut client_out, answered) => end,
    };
    match end {
        End::Cut => {}
        End::Closed(Side::Hub, words) => close(&mut hub_out, &mut client_out, &mut client_in, words).await,
        End::Closed(Side::Client, words) => close(&mut client_out, &mut hub_out, &mut hub_in, words).await,
    }
}

/// Answers who closes, tells the other side, and hears that out: hung up on at once it might not read how it ended.
async fn close(
    closer: &mut (impl Sink<Message> + Unpin),
    out: &mut (impl Sink<Message> + Unpin),
    input: &mut (impl Stream<Item = Result<Message, tungstenite::Error>> + Unpin),
    words: Option<CloseFrame>,
) {
    const HEARD_OUT: Duration = Duration::from_secs(5);
    let telling = async {
        let _ = closer.close().await;
        let _ = out.send(Message::Close(words)).await;
        while let Some(Ok(_)) = input.next().await {}
    };
    let _ = tokio::time::timeout(HEARD_OUT, telling).await;
}

async fn up(
    shared: &Shared,
    line: usize,
    client: &mut (impl Stream<Item = Result<Message, tungstenite::Error>> + Unpin),
    hub: &mut (impl Sink<Message> + Unpin),
    answers: &mpsc::UnboundedSender<Word>,
) -> End {
    while let Some(Ok(message)) = client.next().await {
        let message = match message {
            Message::Text(text) => shared.take(line, Side::Client, text, answers),
            Message::Close(words) => return End::Closed(Side::Client, words),
            other => Some(other),
        };
        if let Some(message) = message
            && hub.send(message).await.is_err()
        {
            // Why is among what the hub has said last, which is read on the other way.
            return std::future::pending().await;
        }
    }
    End::Cut
}

async fn down(
    shared: &Shared,
    line: usize,
    hub: &mut (impl Stream<Item = Result<Message, tungstenite::Error>> + Unpin),
    client: &mut (impl Sink<Message> + Unpin),
    mut answers: mpsc::UnboundedReceiver<Word>,
) -> End {
    let (no_answers, _) = mpsc::unbounded_channel();
    loop {
        let message = tokio::select! {
            message = hub.next() => match message {
                Some(Ok(Message::Text(text))) => shared.take(line, Side::Hub, text, &no_answers),
                Some(Ok(Message::Close(words))) => return End::Closed(Side::Hub, words),
                Some(Ok(other)) => Some(other),
                Some(Err(_)) | None => return End::Cut,
            },
            Some(word) = answers.recv() => match word {
                Word::Frame(frame) => {
                    let text = frame.to_string();
                    shared.write_down(line, Side::Hub, vec![frame]);
                    Some(Message::text(text))
                }
                Word::Close(code) => {
                    let words = CloseFrame { code: code.into(), reason: Utf8Bytes::default() };
                    return End::Closed(Side::Hub, Some(words));
                }
            },
        };
        if let Some(message) = message
            && client.send(message).await.is_err()
        {
            return End::Cut;
        }
    }
}

impl Shared {
    /// Writes a message's frames down and judges them; what goes on, if anything does.
    fn take(&self, line: usize, side: Side, text: Utf8Bytes, answers: &mpsc::UnboundedSender<Word>) -> Option<Message> {
        let read = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()));
        // One frame, or one a line: JSON of several lines is one frame.
        let mut frames: Vec<Value> = match serde_json::from_str(&text) {
            Ok(frame) => vec![frame],
            Err(_) => text.split('\n').filter(|line| !line.trim().is_empty()).map(read).collect(),
        };
        let mut changed = false;
        if side == Side::Client
            && let Some(meddler) = lock(&self.meddler).as_mut()
        {
            frames = judge(meddler, side, frames, answers, &mut changed);
        }
        let mut rule = lock(&self.rule);
        self.write_down(line, side, frames.clone());
        if let Some(rule) = rule.as_mut() {
            frames = judge(rule, side, frames, answers, &mut changed);
        }
        if !changed {
            return Some(Message::Text(text));
        }
        let lines: Vec<String> = frames.iter().map(Value::to_string).collect();
        (!lines.is_empty()).then(|| Message::text(lines.join("\n")))
    }

    fn write_down(&self, line: usize, side: Side, frames: Vec<Value>) {
        let at = self.began.elapsed();
        let mut log = lock(&self.log);
        log.messages += 1;
        let message = log.messages;
        log.seen.extend(frames.into_iter().map(|frame| Seen { line, side, message, frame, at }));
        let over = log.seen.len().saturating_sub(KEPT);
        log.seen.drain(..over);
        drop(log);
        self.changed.send_replace(());
    }
}

fn judge(
    rule: &mut Rule,
    side: Side,
    frames: Vec<Value>,
    answers: &mpsc::UnboundedSender<Word>,
    changed: &mut bool,
) -> Vec<Value> {
    let mut kept = Vec::with_capacity(frames.len());
    for frame in frames {
        let verdict = rule(side, &frame);
        *changed |= verdict != Verdict::Pass;
        match verdict {
            Verdict::Pass => kept.push(frame),
            Verdict::Swallow => {}
            Verdict::Replace(other) => kept.push(other),
            // A line that has ended has nobody to answer.
            Verdict::Answer(answer) => drop(answers.send(Word::Frame(answer))),
        }
    }
    kept
}
