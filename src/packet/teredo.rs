//! Teredo (RFC 4380): IPv6 over UDP, with the indicators that servers put in front.

use etherparse::EtherType;

use super::inner::{Inner, Opened, bytes, require};

/// First two bytes of the indicators.
const AUTHENTICATION: [u8; 2] = [0, 1];
const ORIGIN: [u8; 2] = [0, 0];
/// Bytes of an authentication indicator without its identifier and value, and of an origin indicator.
const AUTHENTICATION_LEN: usize = 13;
const ORIGIN_LEN: usize = 8;

/// What a Teredo datagram's payload at `at` carries.
pub(super) fn teredo(frame: &[u8], at: usize) -> Opened {
    let mut next = at;
    let [first, second, identifier, value] = bytes(frame, next)?;
    if [first, second] == AUTHENTICATION {
        next += AUTHENTICATION_LEN + usize::from(identifier) + usize::from(value);
    }
    if bytes(frame, next)? == ORIGIN {
        next += ORIGIN_LEN;
    }
    let [version] = bytes(frame, next)?;
    require(version >> 4 == 6)?;
    Ok(Inner::typed(EtherType::IPV6, next))
}
