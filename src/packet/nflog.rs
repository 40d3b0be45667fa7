//! NFLOG: packets that Linux's netfilter logs, as a list of attributes.

use super::inner::{Inner, Opened, Unopened, be16, le16, require};

/// Bytes of address family, version and resource before the attributes.
const HEADER_LEN: usize = 4;
/// Bytes of an attribute's length and type, which are in the byte order of the capturing host.
const ATTRIBUTE_LEN: usize = 4;
/// The attribute with the packet.
const PAYLOAD: u16 = 9;
/// Most attributes that are followed; the kernel has some twenty.
const MAX_ATTRIBUTES: usize = 64;

/// The IP packet of an NFLOG message at `at`.
pub(super) fn nflog(frame: &[u8], at: usize) -> Opened {
    let mut next = at + HEADER_LEN;
    // A first attribute of 256 bytes and more does not occur, so that the byte order shows in its length.
    let little = le16(frame, next)? < 0x100;
    let field = |at| if little { le16(frame, at) } else { be16(frame, at) };
    for _ in 0..MAX_ATTRIBUTES {
        let length = usize::from(field(next)?);
        if field(next + 2)? == PAYLOAD {
            return Inner::ip(frame, next + ATTRIBUTE_LEN);
        }
        require(length >= ATTRIBUTE_LEN)?;
        next += length.next_multiple_of(4);
    }
    Err(Unopened::NoPacket)
}
