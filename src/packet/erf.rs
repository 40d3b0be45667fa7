//! ERF records of Endace's capture cards, as a link type and as a file format's records.

use super::inner::{Inner, Opened, Unopened, byte};
use super::ppp;

/// Offset of the type, the bit that extension headers follow, and bytes of the header and of each extension header.
const TYPE_AT: usize = 8;
const EXTENDED: u8 = 0x80;
const HEADER_LEN: usize = 16;
const EXTENSION_LEN: usize = 8;
/// Most extension headers that are followed.
const MAX_EXTENSIONS: usize = 16;
/// Types: HDLC, Ethernet, IP; with colour, hash and channel variants.
const HDLC: [u8; 4] = [1, 10, 15, 19];
const MULTICHANNEL_HDLC: [u8; 2] = [5, 17];
const ETHERNET: [u8; 4] = [2, 11, 16, 20];
const IP: [u8; 2] = [22, 23];
/// Bytes before an Ethernet frame (offset and padding), and before a frame of multichannel HDLC.
const ETHERNET_LEN: usize = 2;
const MULTICHANNEL_LEN: usize = 4;

/// What an ERF record at `at` carries.
pub(super) fn erf(frame: &[u8], at: usize) -> Opened {
    let kind = byte(frame, at + TYPE_AT)?;
    let (mut next, mut more, mut extensions) = (at + HEADER_LEN, kind & EXTENDED != 0, 0);
    while more && extensions < MAX_EXTENSIONS {
        more = byte(frame, next)? & EXTENDED != 0;
        (next, extensions) = (next + EXTENSION_LEN, extensions + 1);
    }
    match kind & !EXTENDED {
        kind if ETHERNET.contains(&kind) => Inner::ethernet(frame, next + ETHERNET_LEN),
        kind if HDLC.contains(&kind) => ppp::ppp(frame, next),
        kind if MULTICHANNEL_HDLC.contains(&kind) => ppp::ppp(frame, next + MULTICHANNEL_LEN),
        kind if IP.contains(&kind) => Inner::ip(frame, next),
        _ => Err(Unopened::NoPacket),
    }
}
