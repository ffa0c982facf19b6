//! Where the hub is, and how it is spoken to safely: the same for the WebSocket and for plain HTTP.

use std::path::Path;
#[cfg(feature = "tls")]
use std::sync::Arc;

use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::Error;

/// The hub's host.
pub(crate) struct Host {
    /// Its name or address, without the brackets of an IPv6 address.
    pub(crate) name: String,
    pub(crate) port: u16,
    /// Host and port as the URL has them.
    pub(crate) authority: String,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<Arc<rustls::ClientConfig>>,
}

impl Host {
    /// The host of the WebSocket's URL, trusted by the authorities in `trust`, or by those of the system.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Config`]: the URL is none, or there are no certificates to trust.
    #[cfg_attr(not(feature = "tls"), expect(unused_variables, reason = "there is no TLS that trusts anybody"))]
    pub(crate) fn of(url: &str, trust: Option<&Path>) -> Result<Self, Error> {
        let request = url
            .into_client_request()
            .map_err(|error| Error::config("the URL is not one of a WebSocket").with_source(error))?;
        let uri = request.uri();
        let secure = match uri.scheme_str() {
            Some("ws") => false,
            Some("wss") => true,
            _ => return Err(Error::config("the URL must start with ws:// or wss://")),
        };
        #[cfg(not(feature = "tls"))]
        if secure {
            return Err(Error::config("wss:// needs the feature `tls` of prom-sdk"));
        }
        let host = uri.host().unwrap_or_default();
        Ok(Self {
            name: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: uri.port_u16().unwrap_or(if secure { 443 } else { 80 }),
            authority: uri.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")),
            #[cfg(feature = "tls")]
            tls: secure.then(|| tls_config(trust)).transpose()?,
        })
    }
}

#[cfg(feature = "tls")]
fn tls_config(trust: Option<&Path>) -> Result<Arc<rustls::ClientConfig>, Error> {
    let roots = match trust {
        Some(path) => authorities(path)?,
        None => system()?,
    };
    // Named, because a program may have other providers, and then there is no default.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::config("TLS cannot be set up").with_source(error))?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

/// The authorities the system trusts.
#[cfg(feature = "tls")]
fn system() -> Result<rustls::RootCertStore, Error> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let error = Error::config("the system has no certificates to trust; install them or set SSL_CERT_FILE");
        return Err(match found.errors.into_iter().next() {
            Some(source) => error.with_source(source),
            None => error,
        });
    }
    Ok(roots)
}

/// Those in a file.
#[cfg(feature = "tls")]
fn authorities(path: &Path) -> Result<rustls::RootCertStore, Error> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let file = path.display();
    let unfit = |error: String| Error::config(format!("the authorities in {file} cannot be trusted: {error}"));
    let mut roots = rustls::RootCertStore::empty();
    for authority in CertificateDer::pem_file_iter(path).map_err(|error| unfit(error.to_string()))? {
        let authority = authority.map_err(|error| unfit(error.to_string()))?;
        roots.add(authority).map_err(|error| unfit(error.to_string()))?;
    }
    if roots.is_empty() { Err(unfit("it holds no certificate".into())) } else { Ok(roots) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_that_of_the_url_whatever_else_it_has() {
        for (url, name, port, authority) in [
            ("ws://127.0.0.1:8090/ws", "127.0.0.1", 8090, "127.0.0.1:8090"),
            ("ws://hub.example.com", "hub.example.com", 80, "hub.example.com"),
            ("ws://[::1]:8090/a/b?c=d", "::1", 8090, "[::1]:8090"),
            ("ws://user:word@hub:1/", "hub", 1, "hub:1"),
        ] {
            let host = Host::of(url, None).unwrap();
            assert_eq!((&*host.name, host.port, &*host.authority), (name, port, authority));
        }
    }
}
