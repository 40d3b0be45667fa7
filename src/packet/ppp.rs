//! PPP (RFC 1661) in all its forms: with and without address and control field, compressed protocol fields, multilink, bridging,
//! PPPoE (RFC 2516), and the captures of pppd.

use etherparse::EtherType;

use super::inner::{Inner, Opened, Unopened, be16, byte, bytes, require};
use super::{hdlc, mpls};

/// Address and control field of HDLC-like framing (RFC 1662), which may be absent, and the flag that may stand before them.
const ADDRESS_CONTROL: [u8; 2] = [0xff, 0x03];
const FLAG: u8 = 0x7e;
/// Protocol numbers.
const IPV4: u16 = 0x0021;
const BRIDGING: u16 = 0x0031;
const MULTILINK: u16 = 0x003d;
const IPV6: u16 = 0x0057;
const MPLS_UNICAST: u16 = 0x0281;
const MPLS_MULTICAST: u16 = 0x0283;
/// The bit that the last byte of a protocol field has, and its first byte of two has not (RFC 1661, section 2).
const LAST_BYTE: u8 = 1;
/// Multilink fragments (RFC 1990): bytes of the header with a long sequence number, and the bit of a packet's first fragment.
const MULTILINK_LEN: usize = 4;
const MULTILINK_FIRST: u8 = 0x80;
/// Bridged frames (RFC 3518): bytes before the frame, and the MAC type of Ethernet in the second.
const BRIDGING_LEN: usize = 2;
const BRIDGED_ETHERNET: u8 = 1;
/// PPPoE, session stage: bytes before the PPP protocol, version and type in the first byte, and the code of session data.
const PPPOE_LEN: usize = 6;
const PPPOE_VERSION_TYPE: u8 = 0x11;
const PPPOE_SESSION_DATA: u8 = 0;

/// What follows the protocol field at `at`. Protocols that are not opened keep their number in place of an EtherType.
pub(super) fn protocol(frame: &[u8], at: usize) -> Opened {
    let first = byte(frame, at)?;
    // The protocol field is one byte if that byte is odd.
    let (number, next) = if first & LAST_BYTE != 0 { (first.into(), at + 1) } else { (be16(frame, at)?, at + 2) };
    match number {
        IPV4 => Ok(Inner::typed(EtherType::IPV4, next)),
        IPV6 => Ok(Inner::typed(EtherType::IPV6, next)),
        MPLS_UNICAST | MPLS_MULTICAST => Ok(Inner::typed(mpls::ETHER_TYPE, next)),
        MULTILINK if byte(frame, next)? & MULTILINK_FIRST != 0 => {
            // Not nested, so that the depth is bounded.
            let inner = byte(frame, next + MULTILINK_LEN)?;
            let two = be16(frame, next + MULTILINK_LEN).unwrap_or(0);
            require(![u16::from(inner), two].contains(&MULTILINK))?;
            protocol(frame, next + MULTILINK_LEN)
        }
        BRIDGING if byte(frame, next + 1)? == BRIDGED_ETHERNET => Inner::ethernet(frame, next + BRIDGING_LEN),
        other => Ok(Inner::typed(EtherType(other), next)),
    }
}

/// A PPP frame at `at`: flag, address and control field are optional.
pub(super) fn ppp(frame: &[u8], at: usize) -> Opened {
    let at = if byte(frame, at)? == FLAG { at + 1 } else { at };
    match bytes(frame, at)? {
        ADDRESS_CONTROL => protocol(frame, at + ADDRESS_CONTROL.len()),
        [hdlc::UNICAST | hdlc::MULTICAST, 0] => hdlc::cisco(frame, at),
        _ => protocol(frame, at),
    }
}

/// A frame as Linux's pppd writes it: the direction in place of the address.
pub(super) fn pppd(frame: &[u8], at: usize) -> Opened {
    match bytes(frame, at)? {
        [0 | 1, control] if control == ADDRESS_CONTROL[1] => protocol(frame, at + ADDRESS_CONTROL.len()),
        _ => ppp(frame, at),
    }
}

/// A frame with a direction byte in front.
pub(super) fn with_direction(frame: &[u8], at: usize) -> Opened {
    ppp(frame, at + 1)
}

/// A PPPoE header, session stage.
pub(super) fn pppoe(frame: &[u8], at: usize) -> Opened {
    let [version_type, code] = bytes(frame, at)?;
    require(version_type == PPPOE_VERSION_TYPE && code == PPPOE_SESSION_DATA)?;
    if frame.len() <= at + PPPOE_LEN {
        return Err(Unopened::Truncated);
    }
    protocol(frame, at + PPPOE_LEN)
}
