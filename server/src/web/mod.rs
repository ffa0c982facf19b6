//! What both ports need to speak HTTP: a server whose sockets are bounded in number and time, answers, refusals,
//! parameters, the page.
//!
//! ```text
//!   server.rs ── sockets.rs   how many, and who goes          answer.rs, failure.rs   what is answered
//!       │     ├─ files.rs     what the system has for them    params.rs               what was asked
//!       │     └─ handshake.rs TLS ── certificates.rs          bearer.rs               who asks
//!   peer.rs   ── heads.rs, read_ahead.rs,                     page.rs                 the page's files
//!                wire.rs, write_timeout.rs
//! ```

mod answer;
mod bearer;
mod certificates;
mod failure;
mod files;
mod handshake;
mod heads;
pub(crate) mod page;
mod params;
mod peer;
mod read_ahead;
mod server;
mod sockets;
mod wire;
mod write_timeout;

pub(crate) use self::{
    answer::{JSON, answer, json},
    bearer::bearer,
    certificates::{CertificateFigures, Certificates, Current, OPS, PUBLIC},
    failure::Failure,
    files::room,
    params::Params,
    peer::{Peer, Times},
    server::{Bounds, Caller, Port},
    sockets::{Cut, Seat, Sockets},
};
pub use self::{
    certificates::{Tls, TlsError, TlsFault},
    page::Page,
};
