//! Ports that nobody else takes while the node they belong to is down.
//!
//! A port that was free a moment ago may be taken when a node is started, or started again after it was killed. So
//! ports come from below the range that the system uses for outgoing connections. And each port is claimed by listening
//! on the port after it: everybody who takes ports by this module, in this process or another, sees that and takes
//! another pair. The claim ends with the process that has it.

use std::{
    io,
    net::{Ipv4Addr, TcpListener},
    ops::Range,
};

/// Nodes get even numbers of these; the odd ones are for the claims. Outgoing connections begin at 32768 on Linux, at
/// 49152 elsewhere.
const RANGE: Range<u16> = 15_000..32_000;
const TRIES: usize = 1000;

/// A port, claimed until this is dropped.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) number: u16,
    _claim: TcpListener,
}

impl Port {
    /// Claims this port, if neither it nor its claim is taken.
    pub(crate) fn claim(number: u16) -> io::Result<Self> {
        let next = number.checked_add(1).ok_or(io::ErrorKind::InvalidInput)?;
        let claim = TcpListener::bind((Ipv4Addr::LOCALHOST, next))?;
        // Listens only to see that it is free; the node listens there later.
        TcpListener::bind((Ipv4Addr::LOCALHOST, number))?;
        Ok(Self { number, _claim: claim })
    }

    /// Claims any free port.
    pub(crate) fn free() -> io::Result<Self> {
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
