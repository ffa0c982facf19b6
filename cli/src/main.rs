//! `prom`: runs a Prom Hub and talks to one.
//!
//! ```text
//!   hub, dev                  run a hub            commands/{hub,dev}.rs
//!   token mint                make a token         commands/token.rs
//!   pub, sub, watch           talk to a hub        commands/{publish,subscribe,watch}.rs
//!   heartbeat                 publish this machine's processes
//!   bench                     measure a hub        commands/bench.rs
//!   ops                       revoke tokens
//!   store                     check and mend a data folder
//!   topic, group delete       take topics and groups out of a hub that runs
//!   outbox                    look into an outbox, retry and delete rows
//! ```

mod commands;
mod connect;
mod file;
mod filled;
mod limits;
mod logging;
mod operate;
mod output;
mod own_mongo;
mod page;
mod processes;
mod secret;
mod settings;
mod tls;
mod tokens;
#[cfg(not(feature = "mongodb"))]
mod without_mongo;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A durable event hub, and the client for it.
#[derive(Debug, Parser)]
#[command(name = "prom", version, propagate_version = true, arg_required_else_help = true, after_help = EXAMPLES)]
struct Cli {
    /// How log lines look: text for people, json for machines. RUST_LOG chooses which ones.
    #[arg(long, global = true, env = "PROM_LOG", value_enum, default_value = "text")]
    log: logging::Format,

    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  prom dev                                          a hub for trying things, with this machine's live processes
  prom sub 'orders.**' --from earliest              see what comes, in the folder where `prom dev` runs
  prom pub orders.placed '{\"order\": 7}' --key 7     publish one event
  JWT_SECRET=$(openssl rand -hex 32) prom hub       a hub for real; clients need tokens signed with that secret";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a hub.
    Hub(commands::hub::Args),
    /// Run a hub for trying things: its own secret, a ready token, this machine's processes live in a page.
    Dev(commands::dev::Args),
    /// Make tokens.
    #[command(subcommand)]
    Token(commands::token::Command),
    /// Publish events.
    Pub(commands::publish::Args),
    /// Receive events, as a durable group or just looking.
    Sub(commands::subscribe::Args),
    /// Follow the newest event of each key of a topic.
    Watch(commands::watch::Args),
    /// Publish this machine's processes, every second.
    Heartbeat(commands::heartbeat::Args),
    /// Measure a hub, and check what it answers.
    Bench(commands::bench::Args),
    /// Change what a running hub does: revoke tokens.
    #[command(subcommand)]
    Ops(commands::ops::Command),
    /// Check a data folder, look into it, make it smaller, mend it.
    #[command(subcommand)]
    Store(commands::store::Command),
    /// Delete topics of a hub that runs.
    #[command(subcommand)]
    Topic(commands::topic::Command),
    /// Delete groups of a hub that runs.
    #[command(subcommand)]
    Group(commands::group::Command),
    /// Look into an outbox in MongoDB, have parked rows published after all, delete rows.
    #[cfg(feature = "mongodb")]
    #[command(subcommand)]
    Outbox(commands::outbox::Command),
    /// Look into an outbox in MongoDB: not in this build, which was made without MongoDB.
    #[cfg(not(feature = "mongodb"))]
    #[command(disable_help_flag = true)]
    Outbox(without_mongo::Ignored),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    logging::start(cli.log, matches!(cli.command, Command::Hub(_)));
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&anyhow::Error::new(error).context("cannot start the runtime")),
    };
    match runtime.block_on(run(cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Hub(args) => commands::hub::run(args).await,
        Command::Dev(args) => commands::dev::run(args).await,
        Command::Token(command) => commands::token::run(command),
        Command::Pub(args) => commands::publish::run(args).await,
        Command::Sub(args) => commands::subscribe::run(args).await,
        Command::Watch(args) => commands::watch::run(args).await,
        Command::Heartbeat(args) => commands::heartbeat::run(args).await,
        Command::Bench(args) => commands::bench::run(args).await,
        Command::Ops(command) => commands::ops::run(command).await,
        Command::Store(command) => commands::store::run(command),
        Command::Topic(command) => commands::topic::run(command).await,
        Command::Group(command) => commands::group::run(command).await,
        #[cfg(feature = "mongodb")]
        Command::Outbox(command) => commands::outbox::run(command).await,
        #[cfg(not(feature = "mongodb"))]
        Command::Outbox(_) => Err(without_mongo::without()),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    // A reader that went away, as in `prom sub … | head`, is no failure worth a word.
    if error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS;
    }
    eprintln!("prom: {error:#}");
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
