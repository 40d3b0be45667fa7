//! MPLS (RFC 3032, RFC 5332): label stacks, and what lies below, by its first bits.
//!
//! MPLS does not name its payload. IP shows by its version; Ethernet pseudowires (RFC 4448) have a control word that begins with
//! four zero bits, or none.

use etherparse::EtherType;

use super::inner::{Inner, Opened, Unopened, byte};

pub(super) const ETHER_TYPE: EtherType = EtherType(0x8847);
pub(super) const ETHER_TYPE_MULTICAST: EtherType = EtherType(0x8848);
/// Bytes of a label, and the bit in its third byte that marks the last label.
pub(super) const LABEL_LEN: usize = 4;
const BOTTOM: u8 = 1;
/// Bytes of a pseudowire's control word.
const CONTROL_WORD_LEN: usize = 4;

/// Whether the label at `at` is the last.
pub(super) fn is_bottom(frame: &[u8], at: usize) -> Result<bool, Unopened> {
    Ok(byte(frame, at + 2)? & BOTTOM != 0)
}

/// The Ethernet frames that may begin at `at`, below the last label: behind a control word, and without one.
pub(super) fn pseudowires(frame: &[u8], at: usize) -> [Opened; 2] {
    let controlled = match byte(frame, at) {
        Ok(first) if first >> 4 == 0 => Inner::ethernet(frame, at + CONTROL_WORD_LEN),
        Ok(_) => Err(Unopened::NoPacket),
        Err(error) => Err(error),
    };
    [controlled, Inner::ethernet(frame, at)]
}
