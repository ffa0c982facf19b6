//! An authority that issues certificates, made by openssl, and connections that trust it.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    http::{Answer, parse},
    identity::openssl,
    in_time,
};

const NEW_KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];

/// An authority. Its files are in a folder of the test's.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
    /// Its own certificate, PEM, for those who trust it.
    pub cert: PathBuf,
    key: PathBuf,
}

/// A certificate and its key, as PEM files.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Issued {
    /// The certificate as it is on the wire.
    pub fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(&self.cert).unwrap()
    }

    /// As a hub is told of it.
    pub fn tls(&self) -> prom_hub::Tls {
        prom_hub::Tls { cert: self.cert.clone(), key: self.key.clone() }
    }

    /// Puts these files in the place of others, as a renewal does.
    pub fn replaces(&self, other: &Self) {
        for (new, old) in [(&self.cert, &other.cert), (&self.key, &other.key)] {
            std::fs::copy(new, old).unwrap();
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

impl Authority {
    /// One of this name, which is that of its files in `folder` too.
    pub fn new(folder: &Path, name: &str) -> Self {
        let (cert, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
        let (subject, files) = (format!("/CN={name}"), ["-keyout", text(&key), "-out", text(&cert)]);
        openssl(&[&["req", "-x509", "-days", "2", "-subj", &subject][..], &NEW_KEY, &files].concat());
        Self { folder: folder.to_owned(), cert, key }
    }

    /// A certificate for this machine, by name and by address, good for two days.
    pub fn issue(&self, name: &str) -> Issued {
        self.issue_for(name, 2)
    }

    /// The same, good for so many days.
    pub fn issue_for(&self, name: &str, days: u32) -> Issued {
        let (request, extensions, issued) = self.request(name);
        let (number, days) = (format!("0x{:x}", serial(name)), days.to_string());
        let files = ["-in", text(&request), "-extfile", text(&extensions), "-out", text(&issued.cert)];
        let own = ["x509", "-req", "-CA", text(&self.cert), "-CAkey", text(&self.key), "-set_serial", &number];
        openssl(&[&own[..], &["-days", &days], &files].concat());
        issued
    }

    /// The same, that was good in the year 2020.
    pub fn issue_expired(&self, name: &str) -> Issued {
        let (request, extensions, issued) = self.request(name);
        let (settings, index) = (self.folder.join(format!("{name}.cnf")), self.folder.join(format!("{name}.index")));
        let number = self.folder.join(format!("{name}.serial"));
        std::fs::write(&index, "").unwrap();
        std::fs::write(&number, format!("{:08x}\n", serial(name))).unwrap();
        let folder = self.folder.display();
        let told = format!(
            "[ca]\ndefault_ca = own\n[own]\ndatabase = {}\nserial = {}\nnew_certs_dir = {folder}\ndefault_md = sha256\npolicy = any\n[any]\ncommonName = supplied\n",
            index.display(),
            number.display()
        );
        std::fs::write(&settings, told).unwrap();
        let files = ["-in", text(&request), "-extfile", text(&extensions), "-out", text(&issued.cert)];
        let own = ["ca", "-batch", "-notext", "-config", text(&settings)];
        let by = ["-cert", text(&self.cert), "-keyfile", text(&self.key)];
        let dates = ["-startdate", "20200101000000Z", "-enddate", "20210101000000Z"];
        openssl(&[&own[..], &by, &dates, &files].concat());
        issued
    }

    /// A new key with what an authority needs to know, and where the certificate goes.
    fn request(&self, name: &str) -> (PathBuf, PathBuf, Issued) {
        let file = |end: &str| self.folder.join(format!("{name}.{end}"));
        let (cert, key, request, extensions) = (file("pem"), file("key"), file("csr"), file("ext"));
        std::fs::write(&extensions, "subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=critical,CA:FALSE\n")
            .unwrap();
        let (subject, files) = (format!("/CN={name}"), ["-keyout", text(&key), "-out", text(&request)]);
        openssl(&[&["req", "-subj", &subject][..], &NEW_KEY, &files].concat());
        (request, extensions, Issued { cert, key })
    }

    /// What trusts this authority alone, and shows a certificate if it has one.
    pub fn client(&self, identity: Option<&Issued>) -> ClientConfig {
        self.client_of(identity, rustls::DEFAULT_VERSIONS)
    }

    /// The same with these versions of TLS.
    pub fn client_of(&self, identity: Option<&Issued>, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.cert).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let config = config.with_root_certificates(roots);
        match identity {
            None => config.with_no_client_auth(),
            Some(own) => {
                let key = PrivateKeyDer::from_pem_file(&own.key).unwrap();
                config.with_client_auth_cert(vec![own.der()], key).unwrap()
            }
        }
    }
}

/// Different for each name, the same for the same.
fn serial(name: &str) -> u32 {
    name.bytes().fold(7, |serial: u32, byte| serial.wrapping_mul(31).wrapping_add(byte.into())) | 1
}

/// A connection under TLS to `localhost`.
///
/// # Errors
/// There is none under TLS. Where it is the client that is refused, it may hear of that only when it reads.
pub async fn connect(address: SocketAddr, tls: ClientConfig) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    in_time(TlsConnector::from(Arc::new(tls)).connect(name, stream)).await
}

/// The certificate that a port shows.
pub async fn shown(address: SocketAddr, tls: ClientConfig) -> CertificateDer<'static> {
    let stream = connect(address, tls).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

/// Sends these bytes under TLS and reads the answer until the server ends the connection, as it must under TLS: with
/// a word.
///
/// # Errors
/// The connection was refused, or cut.
pub async fn raw(address: SocketAddr, tls: ClientConfig, request: &[u8]) -> io::Result<Answer> {
    let mut stream = connect(address, tls).await?;
    stream.write_all(request).await?;
    let mut bytes = Vec::new();
    in_time(stream.read_to_end(&mut bytes)).await?;
    Ok(parse(&bytes))
}
