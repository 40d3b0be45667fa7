//! L2TP version 2 (RFC 2661): PPP over UDP.

use super::inner::{Opened, be16, require};
use super::ppp;

/// Bits of the flags: control message, length, sequence numbers, offset; the version in the last bits.
const CONTROL: u16 = 0x8000;
const LENGTH: u16 = 0x4000;
const SEQUENCE: u16 = 0x0800;
const OFFSET: u16 = 0x0200;
const RESERVED: u16 = 0x34f0;
const VERSION_MASK: u16 = 0x000f;
const VERSION: u16 = 2;
/// Bytes of flags, length, tunnel and session, sequence numbers, offset.
const FLAGS_LEN: usize = 2;
const LENGTH_LEN: usize = 2;
const SESSION_LEN: usize = 4;
const SEQUENCE_LEN: usize = 4;
const OFFSET_LEN: usize = 2;

/// What a data message at `at` carries.
pub(super) fn l2tp(frame: &[u8], at: usize) -> Opened {
    let flags = be16(frame, at)?;
    require(flags & (CONTROL | RESERVED) == 0 && flags & VERSION_MASK == VERSION)?;
    let mut next = at + FLAGS_LEN + SESSION_LEN;
    if flags & LENGTH != 0 {
        next += LENGTH_LEN;
    }
    if flags & SEQUENCE != 0 {
        next += SEQUENCE_LEN;
    }
    if flags & OFFSET != 0 {
        next += OFFSET_LEN + usize::from(be16(frame, next)?);
    }
    ppp::ppp(frame, next)
}
