//! Several frames in one message, one a line, where client and hub agreed to it with AUTH's `batch`.

use std::iter::FusedIterator;

/// The frames of a message, in their order. What stands between two line breaks is a frame; empty lines are none. A frame
/// never holds a raw line break, because JSON wants those in its strings escaped and whoever puts frames together writes
/// none between their tokens.
///
/// A line may also end with a carriage return, which is white space to every reader of a frame.
///
/// ```
/// let message = "{\"op\":\"PING\"}\n\n{\"op\":\"PING\",\"corr\":\"2\"}\n";
/// let found: Vec<&str> = prom_protocol::frames(message).collect();
/// assert_eq!(found, ["{\"op\":\"PING\"}", "{\"op\":\"PING\",\"corr\":\"2\"}"]);
/// ```
pub fn frames(message: &str) -> Frames<'_> {
    Frames { rest: message }
}

/// The iterator of [`frames`].
#[derive(Debug, Clone)]
pub struct Frames<'a> {
    rest: &'a str,
}

impl<'a> Frames<'a> {
    /// What was not looked at yet: whoever stops between two frames goes on there.
    pub fn rest(&self) -> &'a str {
        self.rest
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        while !self.rest.is_empty() {
            let line = match line_break(self.rest.as_bytes()) {
                // A line break is one byte, so that neither half cuts a character.
                Some(at) => {
                    let line = &self.rest[..at];
                    self.rest = &self.rest[at + 1..];
                    line
                }
                None => std::mem::take(&mut self.rest),
            };
            if !matches!(line, "" | "\r") {
                return Some(line);
            }
        }
        None
    }
}

impl FusedIterator for Frames<'_> {}

#[cfg(not(target_arch = "wasm32"))]
fn line_break(bytes: &[u8]) -> Option<usize> {
    memchr::memchr(b'\n', bytes)
}

/// A page downloads every byte of the module: there, one at a time.
#[cfg(target_arch = "wasm32")]
fn line_break(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == b'\n')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_is_a_frame_and_an_empty_one_is_none() {
        let cases: [(&str, &[&str]); 9] = [
            ("", &[]),
            ("\n", &[]),
            ("\n\r\n\n", &[]),
            ("{}", &["{}"]),
            ("{}\n", &["{}"]),
            ("\n{}\n\n{} ", &["{}", "{} "]),
            ("{}\r\n{}\r\n", &["{}\r", "{}\r"]),
            ("ü\n😀", &["ü", "😀"]),
            (" \n{}", &[" ", "{}"]),
        ];
        for (message, expected) in cases {
            assert_eq!(frames(message).collect::<Vec<_>>(), expected, "{message:?}");
        }
    }

    #[test]
    fn the_rest_is_what_was_not_looked_at() {
        let mut walk = frames("a\n\nb\nc");
        assert_eq!((walk.next(), walk.rest()), (Some("a"), "\nb\nc"));
        assert_eq!((walk.next(), walk.rest()), (Some("b"), "c"));
        assert_eq!((walk.next(), walk.rest()), (Some("c"), ""));
        assert_eq!((walk.next(), walk.next(), walk.rest()), (None, None, ""));
    }

    proptest! {
        #[test]
        fn finds_the_lines_of_the_standard_library(message in "[a{}ü\\r\\n]{0,60}") {
            let lines = message.split('\n').filter(|line| !matches!(*line, "" | "\r"));
            prop_assert_eq!(frames(&message).collect::<Vec<_>>(), lines.collect::<Vec<_>>());
        }

        #[test]
        fn stopping_anywhere_and_going_on_loses_nothing(message in "[a\\n]{0,40}", stop in 0..20_usize) {
            let mut walk = frames(&message);
            let mut found: Vec<_> = walk.by_ref().take(stop).collect();
            found.extend(frames(walk.rest()));
            prop_assert_eq!(found, frames(&message).collect::<Vec<_>>());
        }
    }
}
