//! Cisco HDLC and frame relay (RFC 2427).

use super::inner::{Inner, Opened, Unopened, byte, bytes, ether_type_at};
use super::{llc, ppp};

/// Addresses of Cisco HDLC.
pub(super) const UNICAST: u8 = 0x0f;
pub(super) const MULTICAST: u8 = 0x8f;
/// Bytes of address and control field before the EtherType.
const CISCO_LEN: usize = 2;
/// Frame relay: the bit of the last byte of an address, most bytes of an address, and the control field of unnumbered information.
const ADDRESS_END: u8 = 1;
const MAX_ADDRESS: usize = 4;
const UNNUMBERED: u8 = 0x03;
/// Bytes of the multilink header in front of frame relay (FRF.16), and the bit of a packet's first fragment.
const MULTILINK_LEN: usize = 2;
const MULTILINK_FIRST: u8 = 0x80;

/// A Cisco HDLC frame; some writers put PPP on the same link type.
pub(super) fn cisco(frame: &[u8], at: usize) -> Opened {
    match bytes(frame, at)? {
        [0xff, 0x03] => ppp::ppp(frame, at),
        [_, _] => Ok(Inner::typed(ether_type_at(frame, at + CISCO_LEN)?, at + CISCO_LEN + 2)),
    }
}

/// A frame relay frame: RFC 2427, or Cisco's encapsulation with an EtherType after the address.
pub(super) fn frame_relay(frame: &[u8], at: usize) -> Opened {
    let mut length = 1;
    while byte(frame, at + length - 1)? & ADDRESS_END == 0 {
        if length == MAX_ADDRESS {
            return Err(Unopened::NoPacket);
        }
        length += 1;
    }
    let next = at + length;
    if byte(frame, next)? == UNNUMBERED {
        return llc::nlpid(frame, next + 1);
    }
    Ok(Inner::typed(ether_type_at(frame, next)?, next + 2))
}

/// A frame relay frame behind a multilink header.
pub(super) fn multilink_frame_relay(frame: &[u8], at: usize) -> Opened {
    if byte(frame, at)? & MULTILINK_FIRST == 0 {
        return Err(Unopened::NoPacket);
    }
    frame_relay(frame, at + MULTILINK_LEN)
}
