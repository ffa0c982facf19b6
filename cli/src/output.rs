//! What commands print: lines people like on a terminal, JSON lines when piped.

use std::io::{self, IsTerminal, Write};

use prom_protocol::Event;

/// Standard output, one line at a time. Each line is flushed, so that a pipe sees it at once.
#[derive(Debug)]
pub(crate) struct Output {
    people: bool,
    terminal: bool,
}

const DIM: &str = "\x1b[2m";
const BOLD: &str = "\x1b[1m";
const PLAIN: &str = "\x1b[0m";

impl Output {
    /// For a terminal or for a pipe; `json` asks for the latter's lines on a terminal too.
    pub(crate) fn new(json: bool) -> Self {
        let terminal = io::stdout().is_terminal();
        Self { people: !json && terminal, terminal }
    }

    /// One event. `json` is its wire JSON.
    pub(crate) fn event(&self, json: &str, attempt: u32) -> io::Result<()> {
        let event = match Event::parse(json) {
            Ok(event) if self.people => event,
            _ if self.terminal => return line(&escaped(json)),
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
    text.chars().map(|c| if steers(c) { '·' } else { c }).collect()
}

/// The same JSON, with what could steer a terminal written as escapes. It can only stand in strings.
pub(crate) fn escaped(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if steers(c) {
            out.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            out.push(c);
        }
    }
    out
}

/// Whether it moves the cursor, or turns the order in which what follows is shown: `evil\u{202e}txt.exe`.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
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
        assert_eq!(printable("evil\u{202e}txt.exe \u{2066}x\u{9b}"), "evil·txt.exe ·x·");
        assert_eq!(printable("👩‍👩‍👧 שלום"), "👩‍👩‍👧 שלום", "what is only unusual is left alone");
        let json = "{\"payload\":\"a\u{202e}b\u{7f}\u{9b}c\"}";
        assert_eq!(escaped(json), r#"{"payload":"a\u202eb\u007f\u009bc"}"#);
    }
}
