//! What a port's TLS is made of: certificate, key and authorities from files, and again when the files change.
//!
//! ```text
//!   files ──load──► ServerConfig ──watch──► each new connection (handshake.rs)
//!     ▲                                     those that are there keep theirs
//!     └── looked at every few seconds: what cannot be used is said once, and the last good one stays
//! ```

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ring::digest::{Context, Digest, SHA256};
use rustls::{
    CertificateError, RootCertStore, ServerConfig,
    client::verify_server_cert_signed_by_trust_anchor,
    pki_types::{
        CertificateDer, PrivateKeyDer, UnixTime,
        pem::{Error as PemError, PemObject},
    },
    server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Time between two looks at the files.
const EVERY: Duration = Duration::from_secs(5);
/// Largest file: a bundle of all public authorities is a quarter of it.
const FILE_BYTES: u64 = 1024 * 1024;
/// The one protocol that the ports speak over TLS.
const ALPN: &[u8] = b"http/1.1";

/// The files of a port's TLS. They are read again when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The certificate, PEM, and behind it those that lead to its authority.
    pub cert: PathBuf,
    /// Its private key, PEM, not encrypted: PKCS #8, PKCS #1 or SEC 1.
    pub key: PathBuf,
}

/// Why TLS cannot be spoken with the files that are there.
#[derive(Debug, thiserror::Error)]
#[error("{setting} {}: {fault}", file.display())]
#[non_exhaustive]
pub struct TlsError {
    /// The setting that names the file.
    pub setting: &'static str,
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub fault: TlsFault,
}

/// What is wrong with a file of TLS.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsFault {
    /// The system does not give it.
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    /// It is larger than any such file.
    #[error("is larger than {FILE_BYTES} bytes")]
    TooLarge,
    /// It is not text of the kind.
    #[error("is no PEM: {0}")]
    Pem(PemError),
    /// There is none in it.
    #[error("holds no certificate (-----BEGIN CERTIFICATE-----)")]
    NoCertificate,
    /// One of them is not one, or not of a kind that can be used.
    #[error("holds a certificate that cannot be used: {0}")]
    Certificate(rustls::Error),
    /// There is none in it.
    #[error("holds no private key (-----BEGIN PRIVATE KEY-----)")]
    NoKey,
    /// It is locked with a password.
    #[error("is encrypted, and the hub cannot ask for the password; openssl pkey -in … -out … writes it without")]
    Encrypted,
    /// It is not one, or not of a kind that can be used.
    #[error("holds a private key that cannot be used (RSA of 2048 bits or more, P-256, P-384 and Ed25519 can): {0}")]
    Key(rustls::Error),
    /// It belongs to another certificate.
    #[error("is not the key of the certificate in {}", .0.display())]
    Mismatch(PathBuf),
    /// The cryptography cannot do what is asked of it.
    #[error("cannot be used: {0}")]
    Unusable(String),
}

/// The names of a port and of its settings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Names {
    port: &'static str,
    cert: &'static str,
    key: &'static str,
    client_ca: &'static str,
}

/// Those of the public port, which asks nobody for a certificate.
pub(crate) const PUBLIC: Names =
    Names { port: "public", cert: "TLS_CERT_FILE", key: "TLS_KEY_FILE", client_ca: "(none)" };
/// Those of the ops port.
pub(crate) const OPS: Names =
    Names { port: "ops", cert: "OPS_TLS_CERT_FILE", key: "OPS_TLS_KEY_FILE", client_ca: "OPS_TLS_CLIENT_CA_FILE" };

/// What the ports tell of their certificates.
#[derive(Debug)]
pub(crate) struct CertificateFigures {
    pub(crate) port: &'static str,
    /// When the first of the chain in use ends, Unix time in seconds; 0: not known.
    expires: AtomicU64,
    loaded: AtomicU64,
    failed: AtomicU64,
    broken: AtomicBool,
}

impl CertificateFigures {
    pub(crate) fn expires(&self) -> Option<u64> {
        Some(self.expires.load(Relaxed)).filter(|expires| *expires > 0)
    }

    /// How often files that had changed were taken, and were not.
    pub(crate) fn reloads(&self) -> (u64, u64) {
        (self.loaded.load(Relaxed), self.failed.load(Relaxed))
    }

    /// The files that are there now are not those in use, as they cannot be used.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Relaxed)
    }
}

/// What a port speaks TLS with at present.
pub(crate) type Current = watch::Receiver<Arc<ServerConfig>>;

/// The certificate of a port, kept as its files are.
#[derive(Debug)]
pub(crate) struct Certificates {
    files: Files,
    seen: Seen,
    current: watch::Sender<Arc<ServerConfig>>,
    figures: Arc<CertificateFigures>,
}

impl Certificates {
    /// Reads the files; with `client_ca`, who connects needs a certificate that one of its authorities signed.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub(crate) async fn load(names: Names, tls: Tls, client_ca: Option<PathBuf>) -> Result<Self, TlsError> {
        let files = Files { names, tls, client_ca };
        let (seen, loaded) = files.look_apart().await;
        let Loaded { config, expires } = loaded?;
        let figures = Arc::new(CertificateFigures {
            port: names.port,
            expires: AtomicU64::new(expires.unwrap_or(0)),
            loaded: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            broken: AtomicBool::new(false),
        });
        files.say_if_expired(expires);
        Ok(Self { files, seen, current: watch::Sender::new(config), figures })
    }

    pub(crate) fn current(&self) -> Current {
        self.current.subscribe()
    }

    pub(crate) fn figures(&self) -> Arc<CertificateFigures> {
        Arc::clone(&self.figures)
    }

    /// Looks at the files again and again until `ending`.
    pub(crate) async fn keep(mut self, ending: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = ending.cancelled() => return,
            }
            let (seen, loaded) = tokio::select! {
                looked = self.files.look_apart() => looked,
                () = ending.cancelled() => return,
            };
            self.take(seen, loaded);
        }
    }

    fn take(&mut self, seen: Seen, loaded: Result<Loaded, TlsError>) {
        if seen == self.seen {
            return;
        }
        self.seen = seen;
        let port = self.files.names.port;
        self.figures.broken.store(loaded.is_err(), Relaxed);
        match loaded {
            Ok(Loaded { config, expires }) => {
                self.figures.loaded.fetch_add(1, Relaxed);
                self.figures.expires.store(expires.unwrap_or(0), Relaxed);
                self.current.send_replace(config);
                tracing::info!(port, expires, "certificate files have changed; new connections get what they hold");
                self.files.say_if_expired(expires);
            }
            Err(error) => {
                self.figures.failed.fetch_add(1, Relaxed);
                tracing::warn!(port, %error, "certificate files have changed and cannot be used; the last good ones stay");
            }
        }
    }
}

/// What was there at a look.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// The contents, by their digest: a key is not kept in memory twice.
    Contents(Vec<u8>),
    /// Not even that.
    Nothing(String),
}

struct Loaded {
    config: Arc<ServerConfig>,
    expires: Option<u64>,
}

#[derive(Debug, Clone)]
struct Files {
    names: Names,
    tls: Tls,
    client_ca: Option<PathBuf>,
}

struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Contents {
    fn digest(&self) -> Digest {
        let mut context = Context::new(&SHA256);
        for file in [Some(&self.cert), Some(&self.key), self.client_ca.as_ref()] {
            let file = file.map_or(&[][..], Vec::as_slice);
            context.update(&file.len().to_be_bytes());
            context.update(file);
        }
        context.finish()
    }
}

impl Files {
    /// Reads them where a slow disk holds up no connection.
    async fn look_apart(&self) -> (Seen, Result<Loaded, TlsError>) {
        let files = self.clone();
        let looked = tokio::task::spawn_blocking(move || files.look()).await;
        looked.unwrap_or_else(|_| {
            let fault = TlsFault::Unusable("reading it failed".into());
            (Seen::Nothing("panicked".into()), Err(self.cert_error(fault)))
        })
    }

    fn look(&self) -> (Seen, Result<Loaded, TlsError>) {
        match self.read() {
            Ok(contents) => (Seen::Contents(contents.digest().as_ref().to_vec()), self.parse(&contents)),
            Err(error) => (Seen::Nothing(error.to_string()), Err(error)),
        }
    }

    fn read(&self) -> Result<Contents, TlsError> {
        let cert = read(&self.tls.cert).map_err(|fault| self.cert_error(fault))?;
        let key = read(&self.tls.key).map_err(|fault| self.key_error(fault))?;
        let client_ca = self.client_ca.as_deref().map(read).transpose().map_err(|fault| self.ca_error(fault))?;
        Ok(Contents { cert, key, client_ca })
    }

    fn parse(&self, contents: &Contents) -> Result<Loaded, TlsError> {
        // Named, because a program may have other providers, and then there is no default.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = certificates(&contents.cert).map_err(|fault| self.cert_error(fault))?;
        let expires = chain.iter().filter_map(|certificate| expires(certificate, &provider)).min();
        let key = private_key(&contents.key).map_err(|fault| self.key_error(fault))?;
        let key = provider.key_provider.load_private_key(key);
        let certified = CertifiedKey::new(chain, key.map_err(|error| self.key_error(TlsFault::Key(error)))?);
        certified.keys_match().map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => self.key_error(TlsFault::Mismatch(self.tls.cert.clone())),
            error => self.cert_error(TlsFault::Certificate(error)),
        })?;
        let versions = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| self.cert_error(TlsFault::Unusable(error.to_string())))?;
        let clients = match &contents.client_ca {
            None => versions.with_no_client_auth(),
            Some(authorities) => {
                let ca_error = |fault| self.ca_error(fault);
                let mut roots = RootCertStore::empty();
                for authority in certificates(authorities).map_err(ca_error)? {
                    roots.add(authority).map_err(|error| ca_error(TlsFault::Certificate(error)))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                let verifier = verifier.map_err(|error| ca_error(TlsFault::Unusable(error.to_string())))?;
                versions.with_client_cert_verifier(verifier)
            }
        };
        let mut config = clients.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = vec![ALPN.to_vec()];
        if self.client_ca.is_some() {
            // A session that goes on shows no certificate, so it would outlive its client's.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(Loaded { config: Arc::new(config), expires })
    }

    fn say_if_expired(&self, expires: Option<u64>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if let Some(expires) = expires.filter(|expires| *expires < now) {
            let Names { port, cert: setting, .. } = self.names;
            let file = self.tls.cert.display();
            tracing::warn!(port, setting, %file, expires, "the certificate, or one behind it, has expired: clients will refuse it");
        }
    }

    fn cert_error(&self, fault: TlsFault) -> TlsError {
        TlsError { setting: self.names.cert, file: self.tls.cert.clone(), fault }
    }

    fn key_error(&self, fault: TlsFault) -> TlsError {
        TlsError { setting: self.names.key, file: self.tls.key.clone(), fault }
    }

    fn ca_error(&self, fault: TlsFault) -> TlsError {
        TlsError { setting: self.names.client_ca, file: self.client_ca.clone().unwrap_or_default(), fault }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsFault> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(TlsFault::Unreadable)?;
    file.take(FILE_BYTES + 1).read_to_end(&mut bytes).map_err(TlsFault::Unreadable)?;
    if bytes.len() as u64 > FILE_BYTES { Err(TlsFault::TooLarge) } else { Ok(bytes) }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsFault> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(TlsFault::Pem)?;
    if all.is_empty() { Err(TlsFault::NoCertificate) } else { Ok(all) }
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsFault> {
    const LOCKED: &[u8] = b"ENCRYPTED";
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        _ if pem.windows(LOCKED.len()).any(|part| part == LOCKED) => TlsFault::Encrypted,
        PemError::NoItemsFound => TlsFault::NoKey,
        error => TlsFault::Pem(error),
    })
}

/// When a certificate ends, Unix time in seconds; none: that cannot be told.
fn expires(certificate: &CertificateDer<'_>, provider: &rustls::crypto::CryptoProvider) -> Option<u64> {
    let parsed = ParsedCertificate::try_from(certificate).ok()?;
    // Asked whether it is good at the end of time, the library says since when it is not.
    let end = UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX));
    let algorithms = provider.signature_verification_algorithms.all;
    match verify_server_cert_signed_by_trust_anchor(&parsed, &RootCertStore::empty(), &[], end, algorithms) {
        Err(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
            Some(not_after.as_secs())
        }
        _ => None,
    }
}
