//! `prom ops`: what operators change in a hub that runs.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use prom_hub::auth::{self, Revocation, RevocationsError};

use crate::operate::Operate;

#[derive(Debug, clap::Subcommand)]
#[command(after_help = "Examples:
  prom ops revoke --sub worker-7                       all tokens of one subject, also later ones
  prom ops revoke --sub worker-7 --issued-before now   those that it has; new ones count
  prom ops revoke --jti 8f14e45f                       one token
  prom ops revoke --issued-before 2026-11-29T09:00:00Z everybody's that were made before then
  prom ops revoke --jti 8f14e45f --file /etc/prom/revocations.jsonl")]
pub(crate) enum Command {
    /// Make tokens count no more, within a second, also on connections that are open.
    Revoke(Revoke),
}

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("which").required(true).multiple(true).args(["sub", "jti", "issued_before"]))]
pub(crate) struct Revoke {
    /// Whose: all tokens of this subject, those made later too unless --issued-before says otherwise.
    #[arg(long)]
    sub: Option<String>,
    /// Which one.
    #[arg(long, conflicts_with_all = ["sub", "issued_before"])]
    jti: Option<String>,
    /// Made before then: now, 2026-11-29T09:00:00Z, or seconds since 1970. Tokens that do not say when (iat) too.
    #[arg(long, value_parser = time)]
    issued_before: Option<u64>,
    /// Only those of this issuer.
    #[arg(long)]
    iss: Option<String>,
    /// Instead of asking a hub, change the file that its REVOCATIONS_FILE names.
    #[arg(long)]
    file: Option<PathBuf>,
    #[command(flatten)]
    operate: Operate,
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn time(text: &str) -> Result<u64, String> {
    if text == "now" {
        // Whole seconds: a token made in this one is one too.
        return Ok(now() + 1);
    }
    if let Ok(seconds) = text.parse() {
        return Ok(seconds);
    }
    let time = humantime::parse_rfc3339_weak(text).map_err(|_| "it is now, 2026-11-29T09:00:00Z, or seconds")?;
    time.duration_since(UNIX_EPOCH).map(|time| time.as_secs()).map_err(|_| "it is before 1970".into())
}

pub(crate) async fn run(command: Command) -> anyhow::Result<()> {
    let Command::Revoke(args) = command;
    let Revoke { sub, jti, issued_before, iss, .. } = args;
    let mut entry = Revocation { sub, jti, issued_before, iss, at: None };
    entry.check().map_err(anyhow::Error::msg)?;
    println!("revoking {}", words(&entry));
    let entries = if let Some(file) = &args.file {
        entry.at = Some(now());
        let entries = auth::revoke(file, &entry).map_err(|error| {
            let done = matches!(error, RevocationsError::Undurable(_));
            let file = file.display();
            anyhow::Error::new(error).context(if done {
                file.to_string()
            } else {
                format!("nothing was revoked: {file}")
            })
        })?;
        println!("written to {}; a hub that keeps it refuses them within a second", file.display());
        entries as u64
    } else {
        let asked = args.operate.post("/revocations", serde_json::to_string(&entry)?).await;
        let entries = asked.context("the hub has not revoked it, or has not said so")?["entries"].as_u64();
        let entries = entries.context("the hub's answer does not say what it did")?;
        println!(
            "done: the hub refuses them and ends their connections within a second; its REVOCATIONS_FILE says so too"
        );
        entries
    };
    println!("{entries} of at most {} entries", auth::MAX_REVOCATIONS);
    Ok(())
}

/// What an entry hits.
fn words(entry: &Revocation) -> String {
    let iss = entry.iss.as_ref().map_or_else(String::new, |iss| format!(" of the issuer {iss:?}"));
    let before = entry.issued_before.map(|before| {
        let time = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(before));
        format!(" made before {time}, or without iat")
    });
    match (&entry.jti, &entry.sub) {
        (Some(jti), _) => format!("the token with the jti {jti:?}{iss}"),
        (None, Some(sub)) => {
            format!("all tokens of {sub:?}{iss}{}", before.unwrap_or_else(|| ", those made later too".into()))
        }
        (None, None) => format!("everybody's tokens{iss}{}", before.unwrap_or_default()),
    }
}
