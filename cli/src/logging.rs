//! Log lines: readable on a terminal, JSON on request, always on stderr.

use std::io::IsTerminal;

use tracing_subscriber::{Layer as _, filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// How log lines look.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

/// Starts logging. Without RUST_LOG a hub logs from `info` on, a client only warnings and errors.
pub(crate) fn start(format: Format, hub: bool) {
    let default = if hub { "info" } else { "warn" };
    let filter = std::env::var("RUST_LOG").ok().and_then(|wish| parse(&wish));
    let filter = filter.or_else(|| parse(default)).unwrap_or_default();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        Format::Text => lines.with_target(false).with_ansi(std::io::stderr().is_terminal()).boxed(),
        Format::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).init();
}

/// Takes levels and targets, such as `info,prom_hub=debug`; none for what is no filter. Without spans and fields, which
/// would need a library of regular expressions that is larger than the hub.
fn parse(wish: &str) -> Option<Targets> {
    // One comma too many does no harm, and nothing asks for nothing.
    let parts: Vec<&str> = wish.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    if parts.is_empty() {
        return Some(Targets::new());
    }
    // `Targets` would take these for the name of a target.
    let foreign = |part: &&str| part.contains(['[', ']', '{', '}', '"', ' ', '/']);
    if parts.iter().any(foreign) { None } else { parts.join(",").parse().ok() }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn takes_a_level_for_all_and_others_for_some() {
        let filter = parse("info,prom_hub=debug, prom_hub::gateway=off,").unwrap();
        assert!(filter.would_enable("mongodb", &Level::INFO));
        assert!(!filter.would_enable("mongodb", &Level::DEBUG));
        assert!(filter.would_enable("prom_hub::writer", &Level::DEBUG));
        assert!(!filter.would_enable("prom_hub::gateway::out", &Level::ERROR));
    }

    #[test]
    fn without_a_level_for_all_the_others_are_silent() {
        let filter = parse("prom_hub=info").unwrap();
        assert!(filter.would_enable("prom_hub", &Level::INFO));
        assert!(!filter.would_enable("mongodb", &Level::ERROR));
        assert!(!parse("").unwrap().would_enable("prom_hub", &Level::ERROR));
    }

    #[test]
    fn what_is_no_filter_is_none() {
        for wish in ["prom_hub=loud", "a=b=c", "prom_hub[publish]=debug", "[{topic=orders}]"] {
            assert!(parse(wish).is_none(), "{wish}");
        }
    }
}
