//! Secrets that are given, the secret of `prom dev`, and tokens made with a secret.
//!
//! It is kept in the data folder so that a page, or a client in the same folder, goes on when the hub is restarted.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, bail};
use serde_json::json;

use crate::filled::{filled, filled_if_set};

const FILE: &str = "dev-secret";
/// Largest file that is taken for a secret.
const FILE_BYTES: u64 = 64 * 1024;

/// The secret that is given by the variable `name` or its flag, or by the file that `<name>_FILE` or its flag names; none:
/// by neither. One that comes by the flag is warned of.
pub(crate) fn given(name: &str, value: Option<String>, file: Option<PathBuf>) -> anyhow::Result<Option<String>> {
    given_by(&name.to_ascii_lowercase().replace('_', "-"), name, value, file)
}

/// The same where the flag has a name of its own.
pub(crate) fn given_by(
    flag: &str,
    name: &str,
    value: Option<String>,
    file: Option<PathBuf>,
) -> anyhow::Result<Option<String>> {
    let secret = match (value, file) {
        (Some(_), Some(_)) => bail!("{name} and {name}_FILE are both set; a secret has one place"),
        (None, None) => return Ok(None),
        (Some(secret), None) => {
            warn_of_flag(flag, name, &secret, &format!("{name} or {name}_FILE"));
            secret
        }
        (None, Some(file)) => {
            filled(&format!("{name}_FILE"), &file)?;
            read(&file).with_context(|| format!("{name}_FILE {} cannot be used", file.display()))?
        }
    };
    filled(name, &secret)?;
    Ok(Some(secret))
}

/// The URL of a MongoDB, which may have a password in it.
pub(crate) fn mongo_url(value: Option<String>) -> anyhow::Result<Option<String>> {
    let url = filled_if_set("MONGO_URL", value)?;
    if let Some(url) = url.as_ref().filter(|url| url.contains('@')) {
        warn_of_flag("mongo-url", "MONGO_URL", url, "MONGO_URL");
    }
    Ok(url)
}

fn warn_of_flag(flag: &str, name: &str, value: &str, instead: &str) {
    if std::env::var_os(name).as_deref() != Some(OsStr::new(value)) {
        tracing::warn!(
            "--{flag} is readable by every user of this machine, in the list of its processes; use {instead}"
        );
    }
}

/// The text of a file, without the line break that editors and `echo` put at its end.
fn read(file: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    fs::File::open(file)?.take(FILE_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES {
        bail!("it is larger than {FILE_BYTES} bytes");
    }
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    if text.is_empty() {
        bail!("it is empty");
    }
    Ok(text)
}

fn path(data: &Path) -> PathBuf {
    data.join(FILE)
}

/// The secret in `data`, made if there is none.
pub(crate) fn load_or_make(data: &Path) -> anyhow::Result<String> {
    if let Some(secret) = load(data)? {
        return Ok(secret);
    }
    let mut folder = fs::DirBuilder::new();
    folder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut folder, 0o700);
    folder.create(data).with_context(|| {
        format!("cannot make the data folder {}; choose another with PROM_DATA or --data", data.display())
    })?;
    let secret = random_hex()?;
    let path = path(data);
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(&path).and_then(|mut file| file.write_all(secret.as_bytes()));
    written.with_context(|| {
        format!("cannot write {}; choose another data folder with PROM_DATA or --data", path.display())
    })?;
    Ok(secret)
}

/// The secret in `data`, if there is one.
pub(crate) fn load(data: &Path) -> anyhow::Result<Option<String>> {
    let path = path(data);
    match fs::read_to_string(&path) {
        Ok(secret) if secret.trim().len() >= prom_hub::SECRET_BYTES => Ok(Some(secret.trim().to_owned())),
        Ok(_) => bail!("{} is not a secret of `prom dev`; delete it and a new one is made", path.display()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            let advice = "choose another data folder with PROM_DATA or --data";
            Err(error).with_context(|| format!("cannot read {}; {advice}", path.display()))
        }
    }
}

/// 32 bytes of the system's randomness, in hex.
pub(crate) fn random_hex() -> anyhow::Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("the system gives no randomness: {error}"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A token with these scopes.
pub(crate) fn mint(secret: &str, scopes: &[String], ttl: Duration, subject: Option<&str>) -> anyhow::Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_secs();
    let mut claims = json!({ "iat": now, "exp": now.saturating_add(ttl.as_secs()), "scopes": scopes });
    if let Some(subject) = subject {
        claims["sub"] = json!(subject);
    }
    prom_hub::auth::sign(&claims, secret).context("cannot sign the token")
}
