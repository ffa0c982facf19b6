//! Runs steps and shows them: one line each, the details in a log file. One after another, but for those that are begun
//! early and waited for later.

use std::fs::{self, File};
use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Error, Result};

/// How much of a failed step's output is shown.
const TAIL_LINES: usize = 40;
/// A step that takes less is shown once, when it is over.
const QUICK: Duration = Duration::from_millis(300);

/// The steps of one run.
pub(crate) struct Progress {
    total: usize,
    begun: usize,
    logs: PathBuf,
}

/// How a step ended well.
pub(crate) enum Outcome {
    Done,
    /// Nothing it reads has changed since it last succeeded.
    UpToDate,
    /// Done, with something to say.
    Note(String),
}

impl Progress {
    pub(crate) fn new(total: usize, logs: PathBuf) -> Result<Self> {
        fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
        Ok(Self { total, begun: 0, logs })
    }

    /// Runs a step whose output goes to its log.
    pub(crate) fn step(&mut self, name: &str, work: impl FnOnce(&mut Log) -> Result<Outcome>) -> Result<()> {
        let log = Log::create(self.logs.join(file_name(name)))?;
        self.show(name, Instant::now(), log, work)
    }

    fn show(
        &mut self,
        name: &str,
        started: Instant,
        mut log: Log,
        work: impl FnOnce(&mut Log) -> Result<Outcome>,
    ) -> Result<()> {
        self.begun += 1;
        let label = format!("[{}/{}] {name}", self.begun, self.total);
        let ticker = Ticker::start(label.clone(), started);
        let result = work(&mut log);
        ticker.stop();

        let time = format_time(started.elapsed());
        match &result {
            Ok(Outcome::Done) => println!("{label}: {time}"),
            Ok(Outcome::UpToDate) => println!("{label}: up to date"),
            Ok(Outcome::Note(note)) => println!("{label}: {note}"),
            Err(_) => {
                println!("{label}: failed after {time}");
                log.show_tail();
            }
        }
        result.map(|_| ()).with_context(|| format!("{name} failed"))
    }

    /// Begins a step that runs beside others until `finish`, where it is shown. Its output goes to its log.
    pub(crate) fn begin(&self, name: &str, command: &mut Command) -> Result<Beside> {
        let mut log = Log::create(self.logs.join(file_name(name)))?;
        let started = Instant::now();
        let child = log.spawn(command)?;
        Ok(Beside { name: name.to_owned(), command: display(command), log, running: Running(child), started })
    }

    /// Waits for a step that was begun.
    pub(crate) fn finish(&mut self, beside: Beside) -> Result<()> {
        let Beside { name, command, log, mut running, started } = beside;
        self.show(&name, started, log, |_| {
            let ended = running.0.try_wait()?;
            let status = running.0.wait()?;
            succeeded(&command, status)?;
            // When it ended nobody looked, so how long it took is not known.
            Ok(if ended.is_some() { Outcome::Note("done meanwhile".to_owned()) } else { Outcome::Done })
        })
    }

    /// Runs a command whose output is for the reader. An error means that it could not be run.
    pub(crate) fn streamed(&mut self, name: &str, command: &mut Command) -> Result<(ExitStatus, Duration)> {
        self.begun += 1;
        println!("\n[{}/{}] {name}: {}", self.begun, self.total, display(command));
        let started = Instant::now();
        let status = command.status().map_err(|error| not_run(command, error))?;
        Ok((status, started.elapsed()))
    }
}

/// The log of one step.
pub(crate) struct Log {
    file: File,
    path: PathBuf,
}

impl Log {
    fn create(path: PathBuf) -> Result<Self> {
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { file, path })
    }

    /// Runs a command to its good end.
    pub(crate) fn run(&mut self, command: &mut Command) -> Result<()> {
        let status = self.status(command)?;
        succeeded(&display(command), status)
    }

    /// Runs a command to whatever end.
    pub(crate) fn status(&mut self, command: &mut Command) -> Result<ExitStatus> {
        Ok(self.spawn(command)?.wait()?)
    }

    fn spawn(&mut self, command: &mut Command) -> Result<Child> {
        writeln!(self.file, "$ {}", display(command))?;
        command
            .stdin(Stdio::null())
            .stdout(self.file.try_clone()?)
            .stderr(self.file.try_clone()?)
            .spawn()
            .map_err(|error| not_run(command, error))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.path).unwrap_or_default()).into_owned()
    }

    fn show_tail(&self) {
        let text = self.text();
        let lines: Vec<&str> = text.lines().collect();
        let hidden = lines.len().saturating_sub(TAIL_LINES);
        for line in &lines[hidden..] {
            println!("  {line}");
        }
        if hidden > 0 {
            println!("  ({hidden} lines more: {})", self.path.display());
        }
    }
}

fn succeeded(command: &str, status: ExitStatus) -> Result<()> {
    if !status.success() {
        anyhow::bail!("`{command}` ended with {status}");
    }
    Ok(())
}

/// A step that runs beside others. Dropped before it has ended, because another step failed, it is killed.
pub(crate) struct Beside {
    name: String,
    command: String,
    log: Log,
    running: Running,
    started: Instant,
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both do nothing to a process that was waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Keeps a running step's line alive.
struct Ticker {
    stop: mpsc::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Ticker {
    fn start(label: String, started: Instant) -> Self {
        let (stop, stopped) = mpsc::channel();
        let live = std::io::stdout().is_terminal();
        let thread = thread::spawn(move || {
            let running = || stopped.recv_timeout(QUICK) == Err(mpsc::RecvTimeoutError::Timeout);
            if live {
                print!("{label}…");
                flush();
                while running() {
                    print!("{CLEAR_LINE}{label}… {}", format_time(started.elapsed()));
                    flush();
                }
                print!("{CLEAR_LINE}");
            } else if running() {
                println!("{label}…");
            }
        });
        Self { stop, thread }
    }

    fn stop(self) {
        drop(self.stop);
        // It only prints; if that failed there is nobody to tell.
        let _ = self.thread.join();
    }
}

const CLEAR_LINE: &str = "\r\x1b[2K";

fn flush() {
    // A terminal that went away is noticed by the next `println!`.
    let _ = std::io::stdout().flush();
}

/// `cargo build -p x`, without the folders of the program, as one would type it.
pub(crate) fn display(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_stem().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

pub(crate) fn format_time(time: Duration) -> String {
    match time.as_secs() {
        0..10 => format!("{:.1} s", time.as_secs_f32()),
        seconds @ 10..120 => format!("{seconds} s"),
        seconds => format!("{} min {:02} s", seconds / 60, seconds % 60),
    }
}

fn not_run(command: &Command, error: std::io::Error) -> Error {
    let program = command.get_program().to_string_lossy().into_owned();
    match error.kind() {
        ErrorKind::NotFound if program.contains("node_modules") => {
            Error::msg(format!("`{program}` was not found; `npm ci` brings it"))
        }
        ErrorKind::NotFound => Error::msg(format!("`{program}` was not found; is it installed and on PATH?")),
        _ => Error::new(error).context(format!("`{program}` cannot be run")),
    }
}

fn file_name(step: &str) -> String {
    let slug: String =
        step.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let parts: Vec<&str> = slug.split('-').filter(|part| !part.is_empty()).collect();
    format!("{}.log", parts.join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_log_files_after_their_step() {
        assert_eq!(file_name("SDK module (wasm)"), "sdk-module-wasm.log");
    }

    #[test]
    fn shows_a_command_as_one_would_type_it() {
        assert_eq!(display(Command::new("/opt/rust/bin/cargo").args(["build", "-p", "x"])), "cargo build -p x");
    }

    fn progress(test: &str) -> Progress {
        Progress::new(1, std::env::temp_dir().join(format!("xtask-step-{test}-{}", std::process::id()))).unwrap()
    }

    #[test]
    #[cfg(unix)]
    fn a_step_beside_others_ends_well_or_says_what_failed() {
        let mut progress = progress("beside");
        let good = progress.begin("good", &mut Command::new("true")).unwrap();
        let bad = progress.begin("bad", Command::new("sh").args(["-c", "exit 3"])).unwrap();
        progress.finish(good).unwrap();
        let error = format!("{:#}", progress.finish(bad).unwrap_err());
        assert!(error.contains("bad failed") && error.contains("`sh -c exit 3` ended with"), "{error}");
        fs::remove_dir_all(&progress.logs).unwrap();
    }

    #[test]
    #[cfg(unix)]
    fn a_step_that_nobody_waits_for_any_more_is_ended() {
        let progress = progress("dropped");
        // Drop waits for it, so this would take its ten minutes.
        drop(progress.begin("endless", Command::new("sleep").arg("600")).unwrap());
        fs::remove_dir_all(&progress.logs).unwrap();
    }

    #[test]
    fn writes_times_for_people() {
        assert_eq!(format_time(Duration::from_millis(412)), "0.4 s");
        assert_eq!(format_time(Duration::from_secs(41)), "41 s");
        assert_eq!(format_time(Duration::from_secs(192)), "3 min 12 s");
    }
}
