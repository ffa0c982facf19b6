//! `prom token`: make tokens.

use std::{path::PathBuf, time::Duration};

use anyhow::bail;
use prom_protocol::{Policy, check_subject};

use crate::{filled::path, secret, tokens::lifetime};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make a token, signed with JWT_SECRET or with the secret of the `prom dev` that runs in this folder.
    Mint(Mint),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  prom token mint                                                    for a page and a heartbeat, one hour
  prom token mint --scope 'publish:orders.*' --scope 'consume:orders.**:billing' --ttl 30d
  JWT_SECRET=… prom token mint --scope '*:**' --ttl 5m")]
pub(crate) struct Mint {
    /// What the token may do: publish:PATTERN, read:PATTERN (without groups), subscribe:PATTERN (read, and any
    /// group), consume:PATTERN:GROUP, *:PATTERN, ops:read, ops:admin. Repeatable.
    #[arg(long = "scope", value_name = "SCOPE", default_values_t = ["publish:heartbeat.received".to_owned(), "read:process.state".to_owned()])]
    scopes: Vec<String>,
    /// How long it is good for, like 30s, 5m, 12h, 30d; at most --jwt-max-lifetime.
    #[arg(long, default_value = "1h", value_parser = humantime::parse_duration)]
    ttl: Duration,
    /// JWT_MAX_LIFETIME of the hub it is for, which refuses a token that is good for longer.
    #[arg(long, env = "JWT_MAX_LIFETIME", default_value = "400d", value_parser = lifetime)]
    jwt_max_lifetime: Duration,
    /// The token's sub: whom it is for, at most 512 bytes. Events that are published with it tell it as `by`.
    #[arg(long)]
    subject: Option<String>,
    /// Secret to sign with, at least 32 bytes.
    #[arg(long, env = "JWT_SECRET", hide_env_values = true)]
    jwt_secret: Option<String>,
    /// File that holds that secret; a line break at its end does not count.
    #[arg(long, env = "JWT_SECRET_FILE", value_parser = path())]
    jwt_secret_file: Option<PathBuf>,
    /// Data folder of `prom dev`.
    #[arg(long, env = "PROM_DATA", default_value = "./prom-data")]
    data: PathBuf,
}

/// A time as one would write it: 400d, and not a year, a month and some days.
fn span(time: Duration) -> String {
    match time.as_secs() {
        secs if secs > 0 && secs % 86_400 == 0 => format!("{}d", secs / 86_400),
        _ => humantime::format_duration(time).to_string(),
    }
}

pub(crate) fn run(command: Command) -> anyhow::Result<()> {
    let Command::Mint(args) = command;
    for scope in &args.scopes {
        // A bare action would be for all topics; whoever means that can say so.
        if Policy::from_scope_claim([scope.as_str()]).rules.is_empty() {
            bail!(
                "--scope {scope:?} would grant nothing; a scope is publish:PATTERN, read:PATTERN, subscribe:PATTERN, consume:PATTERN:GROUP, *:PATTERN, ops:read or ops:admin"
            );
        }
    }
    if args.ttl.is_zero() {
        bail!("--ttl must be at least 1s");
    }
    if let Some(subject) = &args.subject
        && let Err(refusal) = check_subject("--subject", subject)
    {
        bail!("{}; no hub would take the token", refusal.message());
    }
    if args.ttl > args.jwt_max_lifetime {
        bail!(
            "--ttl {} is longer than {}, the most that a hub takes unless its JWT_MAX_LIFETIME says otherwise; if it does, set it here too",
            span(args.ttl),
            span(args.jwt_max_lifetime)
        );
    }
    let secret = match secret::given("JWT_SECRET", args.jwt_secret, args.jwt_secret_file)? {
        Some(secret) if secret.len() < prom_hub::SECRET_BYTES => {
            bail!("JWT_SECRET is {} bytes long; HS256 needs at least {}", secret.len(), prom_hub::SECRET_BYTES)
        }
        Some(secret) => secret,
        None => match secret::load(&args.data)? {
            Some(secret) => secret,
            None => bail!("no secret to sign with: set JWT_SECRET, or run this where `prom dev` has its data folder"),
        },
    };
    println!("{}", secret::mint(&secret, &args.scopes, args.ttl, args.subject.as_deref())?);
    Ok(())
}
