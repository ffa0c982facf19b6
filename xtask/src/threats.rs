//! The tests that SECURITY.md names are there: a threat whose test was renamed or removed looks covered and is not.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

/// Looks through the tables of SECURITY.md.
pub(crate) fn check(root: &Path) -> Result<()> {
    let document = fs::read_to_string(root.join("SECURITY.md")).context("cannot read SECURITY.md")?;
    let wrong = problems(&document, |file| fs::read_to_string(root.join(file)).unwrap_or_default());
    ensure!(wrong.is_empty(), "SECURITY.md:\n{}", wrong.join("\n"));
    Ok(())
}

/// What is wrong with the last column of each row: files, each with the tests in it behind it, all in backticks.
fn problems(document: &str, read: impl Fn(&str) -> String) -> Vec<String> {
    let mut wrong = Vec::new();
    for row in document.lines().filter(|line| line.starts_with("| ") && !line.ends_with("| Test |")) {
        let cell = row.trim_end_matches([' ', '|']).rsplit('|').next().unwrap_or_default();
        let (mut file, mut text, mut tests) = ("no file", String::new(), 0);
        for name in cell.split('`').skip(1).step_by(2) {
            if name.contains('/') {
                (file, text) = (name, read(name));
                continue;
            }
            tests += 1;
            if !text.contains(&format!("fn {name}(")) && !text.contains(&format!("test(\"{name}\"")) {
                wrong.push(format!("{file} has no test {name}"));
            }
        }
        if tests == 0 && !["not defended", "no test", "intended"].iter().any(|words| row.contains(words)) {
            wrong.push(format!("no test, and it does not say so: {row}"));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_is_gone_and_a_row_without_one_are_found() {
        let read = |file: &str| if file == "a/b.rs" { "fn there() {".to_owned() } else { String::new() };
        let good = "| Threat | Test |\n|---|---|\n| x | `a/b.rs` `there` |\n| y | not defended: z | none |\n";
        assert!(problems(good, read).is_empty());
        let bad = "| x | `a/b.rs` `there` `gone`, `c/d.rs` `there` |\n| y | z | none |\n| z | `there` |";
        assert_eq!(problems(bad, read).len(), 4);
    }
}
