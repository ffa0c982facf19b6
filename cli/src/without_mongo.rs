//! What a build without MongoDB says where MongoDB is asked for.

/// The refusal: what is missing, and how to get it.
pub(crate) fn without() -> anyhow::Error {
    anyhow::anyhow!(
        "this prom was built without MongoDB. One that has it: `npm start -- --mongo`, `npm run build`, or \
         `cargo build --release --package prom-cli`"
    )
}

/// Arguments of a command that this build does not have.
#[derive(Debug, clap::Args)]
pub(crate) struct Ignored {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _arguments: Vec<std::ffi::OsString>,
}
