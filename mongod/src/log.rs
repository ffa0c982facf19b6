//! The last lines of a node's log, in a form that people can read.

use std::path::Path;

use serde_json::Value;

const LINES: usize = 15;

/// The last lines of the file.
pub(crate) fn tail(path: &Path) -> String {
    let text = match std::fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => return format!("  (cannot read {}: {error})", path.display()),
    };
    let mut lines: Vec<String> = text.lines().rev().take(LINES).map(|line| format!("  {}", readable(line))).collect();
    lines.reverse();
    if lines.is_empty() { format!("  ({} is empty)", path.display()) } else { lines.join("\n") }
}

/// Turns a line of MongoDB's JSON log into severity, component, message and attributes; leaves any other line as it is.
fn readable(line: &str) -> String {
    let Ok(Value::Object(entry)) = serde_json::from_str(line) else { return line.to_owned() };
    let text = |field| entry.get(field).and_then(Value::as_str).unwrap_or_default();
    let attributes = entry.get("attr").map(|attributes| format!(" {attributes}")).unwrap_or_default();
    format!("{} {} {}{attributes}", text("s"), text("c"), text("msg"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_structured_lines_readably_and_others_as_they_are() {
        let line =
            r#"{"t":{"$date":"2026-01-01T00:00:00Z"},"s":"E","c":"STORAGE","id":1,"msg":"no","attr":{"error":7}}"#;
        assert_eq!(readable(line), r#"E STORAGE no {"error":7}"#);
        assert_eq!(readable("sh: no such file"), "sh: no such file");
    }

    #[test]
    fn shows_the_last_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let text: String = (1..=100).map(|line| format!("line {line}\n")).collect();
        std::fs::write(&path, text).unwrap();
        let tail = tail(&path);
        assert!(tail.starts_with("  line 86\n") && tail.ends_with("  line 100"), "{tail}");
    }
}
