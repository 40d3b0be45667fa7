//! GTP-U, the user plane of mobile networks (3GPP TS 29.281), with its extension headers.

use super::inner::{Inner, Opened, Unopened, be16, byte, bytes, require};

/// First byte: bits of version and protocol, and their values in GTPv1; bits that say that optional fields follow.
const VERSION_MASK: u8 = 0xf0;
const VERSION_1: u8 = 0x30;
const OPTIONAL: u8 = 0x07;
const EXTENDED: u8 = 0x04;
/// Message type of user data.
const G_PDU: u8 = 255;
/// Bytes of the header, and of its optional fields: sequence number, N-PDU number, type of the first extension header.
const HEADER_LEN: usize = 8;
const OPTIONAL_LEN: usize = 4;
/// Most extension headers that are followed.
const MAX_EXTENSIONS: usize = 8;

/// What a GTP-U header at `at` carries: IP, or the Ethernet frames of 5G.
pub(super) fn gtp(frame: &[u8], at: usize) -> Opened {
    let [flags, kind] = bytes(frame, at)?;
    require(flags & VERSION_MASK == VERSION_1 && kind == G_PDU)?;
    // The length counts from the end of the header; more than there is means a captured length below the frame's, or another protocol.
    require(be16(frame, at + 2)? != 0)?;
    let mut next = at + HEADER_LEN;
    if flags & OPTIONAL != 0 {
        next += OPTIONAL_LEN;
        if flags & EXTENDED != 0 {
            next = skip_extensions(frame, next)?;
        }
    }
    Inner::ip(frame, next).or_else(|_| Inner::ethernet(frame, next))
}

/// The end of the extension headers that begin at `at`; the byte before names the type of the first, as each one's last byte does of
/// the next, and 0 ends them.
fn skip_extensions(frame: &[u8], mut at: usize) -> Result<usize, Unopened> {
    for _ in 0..MAX_EXTENSIONS {
        if byte(frame, at - 1)? == 0 {
            return Ok(at);
        }
        let length = usize::from(byte(frame, at)?) * 4;
        require(length != 0)?;
        at += length;
    }
    Err(Unopened::NoPacket)
}
