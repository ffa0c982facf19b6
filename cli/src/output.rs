//! What commands print: lines people like on a terminal, JSON lines when piped.

use std::io::{self, IsTerminal, Write};

use prom_protocol::Event;

/// Standard output, one line at a time. Each line is flushed, so that a pipe sees it at once.
#[derive(Debug)]
pub(crate) struct Output {
    people: bool,
}

const DIM: &str = "\x1b[2m";
const BOLD: &str = "\x1b[1m";
const PLAIN: &str = "\x1b[0m";

impl Output {
    /// For a terminal or for a pipe; `json` asks for the latter's lines on a terminal too.
    pub(crate) fn new(json: bool) -> Self {
        Self { people: !json && io::stdout().is_terminal() }
    }

    /// One event. `json` is its wire JSON.
    pub(crate) fn event(&self, json: &str, attempt: u32) -> io::Result<()> {
        let event = match Event::parse(json) {
            Ok(event) if self.people => event,
            _ => return line(json),
        };
        let key = event.key.as_ref().map(|key| format!(" {key}")).unwrap_or_default();
        let again = if attempt > 1 { format!(" (attempt {attempt})") } else { String::new() };
        line(&format!(
            "{DIM}{}{PLAIN} {BOLD}{}{PLAIN}{DIM} #{}{PLAIN}{}{DIM}{}{PLAIN} {}",
            clock(event.ts),
            event.topic,
            event.seq,
            printable(&key),
            again,
            printable(event.payload.get()),
        ))
    }

    /// A line for people only.
    pub(crate) fn note(&self, text: &str) {
        if self.people {
            eprintln!("{DIM}{text}{PLAIN}");
        }
    }

    /// A line of JSON for machines, or of text for people.
    pub(crate) fn either(&self, json: &str, text: &str) -> io::Result<()> {
        line(if self.people { text } else { json })
    }
}

fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Text of others must not steer this terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '·' } else { c }).collect()
}

/// The time of day of an event, in UTC.
fn clock(ts: u64) -> String {
    let (ms, seconds) = (ts % 1000, ts / 1000 % 86_400);
    format!("{:02}:{:02}:{:02}.{ms:03}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_texts_are_safe_to_show() {
        assert_eq!(clock(86_400_000 + 3_723_004), "01:02:03.004");
        assert_eq!(printable("a\x1b[2Jb"), "a·[2Jb");
    }
}
