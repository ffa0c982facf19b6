//! TLS of a hub's ports, each file from a variable, its flag, or the configuration file.
//!
//! ```toml
//! [tls]
//! cert_file = "/etc/prom/fullchain.pem"     # TLS_CERT_FILE
//! key_file = "/etc/prom/privkey.pem"        # TLS_KEY_FILE
//!
//! [ops_tls]
//! cert_file = "/etc/prom/ops.pem"           # OPS_TLS_CERT_FILE
//! key_file = "/etc/prom/ops.key"            # OPS_TLS_KEY_FILE
//! client_ca_file = "/etc/prom/admins.pem"   # OPS_TLS_CLIENT_CA_FILE
//! ```

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use serde::Deserialize;

use crate::filled::{filled_if_set, path};

/// The files that TLS is spoken with.
#[derive(Debug, Default, Args)]
pub(crate) struct Tls {
    /// Certificate of the port, PEM, and behind it those that lead to its authority: with it the port speaks TLS. Read
    /// again when it changes.
    #[arg(long, env = "TLS_CERT_FILE", value_parser = path())]
    tls_cert_file: Option<PathBuf>,
    /// Its private key, PEM, not encrypted.
    #[arg(long, env = "TLS_KEY_FILE", value_parser = path())]
    tls_key_file: Option<PathBuf>,
    /// Certificate of the operators' port, PEM.
    #[arg(long, env = "OPS_TLS_CERT_FILE", value_parser = path())]
    ops_tls_cert_file: Option<PathBuf>,
    /// Its private key.
    #[arg(long, env = "OPS_TLS_KEY_FILE", value_parser = path())]
    ops_tls_key_file: Option<PathBuf>,
    /// Authorities, PEM: who connects to the operators' port needs a certificate that one of them signed.
    #[arg(long, env = "OPS_TLS_CLIENT_CA_FILE", value_parser = path())]
    ops_tls_client_ca_file: Option<PathBuf>,
}

/// The same in the configuration file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct InFile {
    pub(crate) tls: Public,
    pub(crate) ops_tls: Ops,
}

/// `[tls]`
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Public {
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
}

/// `[ops_tls]`
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ops {
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    client_ca_file: Option<PathBuf>,
}

impl Tls {
    /// Sets what is given here or in the configuration file.
    ///
    /// # Errors
    /// A file has two places, is named by nothing, or lacks its other half.
    pub(crate) fn apply(self, file: InFile, config: &mut prom_hub::Config) -> anyhow::Result<()> {
        let InFile { tls, ops_tls } = file;
        let cert = one("TLS_CERT_FILE", self.tls_cert_file, "tls.cert_file", tls.cert_file)?;
        let key = one("TLS_KEY_FILE", self.tls_key_file, "tls.key_file", tls.key_file)?;
        config.tls = pair(("TLS_CERT_FILE", cert), ("TLS_KEY_FILE", key))?;
        let cert = one("OPS_TLS_CERT_FILE", self.ops_tls_cert_file, "ops_tls.cert_file", ops_tls.cert_file)?;
        let key = one("OPS_TLS_KEY_FILE", self.ops_tls_key_file, "ops_tls.key_file", ops_tls.key_file)?;
        config.ops_tls = pair(("OPS_TLS_CERT_FILE", cert), ("OPS_TLS_KEY_FILE", key))?;
        let own = self.ops_tls_client_ca_file;
        config.ops_client_ca = one("OPS_TLS_CLIENT_CA_FILE", own, "ops_tls.client_ca_file", ops_tls.client_ca_file)?;
        Ok(())
    }
}

fn one(name: &str, own: Option<PathBuf>, field: &str, in_file: Option<PathBuf>) -> anyhow::Result<Option<PathBuf>> {
    if own.is_some() && in_file.is_some() {
        bail!("{name} and {field} of the configuration file are both set; a file has one place");
    }
    for (name, given) in [(name, &own), (field, &in_file)] {
        filled_if_set(name, given.as_ref())?;
    }
    Ok(own.or(in_file))
}

type Named = (&'static str, Option<PathBuf>);

fn pair(cert: Named, key: Named) -> anyhow::Result<Option<prom_hub::Tls>> {
    match (cert, key) {
        ((_, None), (_, None)) => Ok(None),
        ((_, Some(cert)), (_, Some(key))) => Ok(Some(prom_hub::Tls { cert, key })),
        ((set, Some(_)), (lacks, None)) | ((lacks, None), (set, Some(_))) => {
            bail!("{set} is set without {lacks}; TLS needs both")
        }
    }
}
