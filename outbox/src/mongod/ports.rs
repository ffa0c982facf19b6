//! Ports that stay a set's own while its nodes are down.
//!
//! A port that was merely free a moment ago may be anybody's when a node is started, or started again after it was
//! killed. So ports are taken from below the range of outgoing connections, and each is claimed by holding the port
//! after it: whoever takes ports here holds off everyone else who does, also in other processes, until it ends.

use std::{
    io,
    net::{Ipv4Addr, TcpListener},
    ops::Range,
};

/// Even numbers of these are for nodes. Outgoing connections begin at 32768 on Linux, at 49152 elsewhere.
const RANGE: Range<u16> = 15_000..32_000;
const TRIES: usize = 1000;

/// A port, claimed until this is dropped.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) number: u16,
    _claim: TcpListener,
}

impl Port {
    /// Claims a certain one, if nobody has it.
    pub(super) fn claim(number: u16) -> io::Result<Self> {
        let next = number.checked_add(1).ok_or(io::ErrorKind::InvalidInput)?;
        let claim = TcpListener::bind((Ipv4Addr::LOCALHOST, next))?;
        // Given up again at once: it is the node's.
        TcpListener::bind((Ipv4Addr::LOCALHOST, number))?;
        Ok(Self { number, _claim: claim })
    }

    /// Claims any.
    pub(super) fn free() -> io::Result<Self> {
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in 0..TRIES {
            match Self::claim(fastrand::u16(RANGE) & !1) {
                Ok(port) => return Ok(port),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_gets_a_claimed_port() {
        let port = Port::free().unwrap();
        assert_eq!(Port::claim(port.number).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_claimed_port_can_be_listened_on() {
        let port = Port::free().unwrap();
        TcpListener::bind((Ipv4Addr::LOCALHOST, port.number)).unwrap();
    }

    #[test]
    fn a_port_somebody_listens_on_is_not_claimed() {
        let port = Port::free().unwrap();
        let number = port.number;
        drop(port);
        let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, number)).unwrap();
        assert_eq!(Port::claim(number).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
