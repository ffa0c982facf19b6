//! The metrics of the ports' certificates.

use std::sync::Arc;

use crate::{
    flow::exposition::{head, line},
    web::CertificateFigures,
};

/// Appends them, if a port speaks TLS.
pub(super) fn render(out: &mut String, ports: &[Arc<CertificateFigures>]) {
    if ports.is_empty() {
        return;
    }
    head(out, "tls_certificate_expires_seconds", "gauge", "When the certificate in use ends, Unix time in seconds.");
    for own in ports {
        if let Some(expires) = own.expires() {
            line(out, format_args!("tls_certificate_expires_seconds{{port=\"{}\"}} {expires}", own.port));
        }
    }
    head(out, "tls_reloads_total", "counter", "Changes of certificate files, by how they went.");
    for own in ports {
        let (ok, failed) = own.reloads();
        line(out, format_args!("tls_reloads_total{{port=\"{}\",result=\"ok\"}} {ok}", own.port));
        line(out, format_args!("tls_reloads_total{{port=\"{}\",result=\"failed\"}} {failed}", own.port));
    }
    head(
        out,
        "tls_files_broken",
        "gauge",
        "1: the certificate files cannot be used, and the last good ones are in use.",
    );
    for own in ports {
        line(out, format_args!("tls_files_broken{{port=\"{}\"}} {}", own.port, u8::from(own.is_broken())));
    }
}
