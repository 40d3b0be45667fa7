//! CAPWAP data channel (RFC 5415): frames between access points and their controller.

use super::inner::{Inner, Opened, bytes, require};
use super::wifi;

/// Bits of the second byte: the length of the header in words of 4 bytes.
const LENGTH_SHIFT: u8 = 3;
/// Bits of the third and fourth byte: the payload is native (802.11), a fragment, keep-alive.
const NATIVE: u8 = 0x01;
const FRAGMENT: u8 = 0x80;
const KEEP_ALIVE: u8 = 0x08;
/// Offset of the fragment offset, which has 13 bits, and bytes of a header without optional fields.
const FRAGMENT_AT: usize = 6;
const HEADER_LEN: usize = 8;

/// What a data header at `at` carries: Ethernet, or 802.11.
pub(super) fn capwap(frame: &[u8], at: usize) -> Opened {
    let [preamble, length, native, flags] = bytes(frame, at)?;
    // A preamble other than 0 is DTLS or another version.
    require(preamble == 0 && flags & KEEP_ALIVE == 0)?;
    let [offset_high, offset_low] = bytes(frame, at + FRAGMENT_AT)?;
    require(flags & FRAGMENT == 0 || [offset_high, offset_low >> 3] == [0; 2])?;
    let next = at + usize::from(length >> LENGTH_SHIFT) * 4;
    require(next >= at + HEADER_LEN)?;
    if native & NATIVE == 0 {
        return Inner::ethernet(frame, next);
    }
    wifi::wifi(frame, next).or_else(|_| wifi::swapped(frame, next))
}
