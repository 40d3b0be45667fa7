//! Overlays of virtual networks over UDP: VXLAN (RFC 7348), its extensions GBP and GPE (draft-ietf-nvo3-vxlan-gpe), Geneve
//! (RFC 8926), LISP (RFC 9300), and the service header they may carry (NSH, RFC 8300).

use etherparse::EtherType;

use super::gre::TRANSPARENT_ETHERNET_BRIDGING;
use super::inner::{Inner, Opened, Unopened, be16, byte, bytes, require};
use super::mpls;

/// Bytes of a VXLAN header, and the flags in its first byte that its network identifier is valid, and that a protocol is named.
const VXLAN_LEN: usize = 8;
const VXLAN_VALID: u8 = 0x08;
const VXLAN_PROTOCOL: u8 = 0x04;
/// Offset of the protocol in a VXLAN-GPE header, and its values, which NSH shares.
const GPE_PROTOCOL_AT: usize = 3;
const IPV4: u8 = 1;
const IPV6: u8 = 2;
const ETHERNET: u8 = 3;
const NSH: u8 = 4;
const MPLS: u8 = 5;
/// Geneve: bytes without options, bits of the version, and of the options' length in words of 4 bytes.
const GENEVE_LEN: usize = 8;
const GENEVE_VERSION_MASK: u8 = 0xc0;
const GENEVE_OPTIONS_MASK: u8 = 0x3f;
/// NSH: its EtherType, offset of the protocol, and bits of its length in words of 4 bytes.
pub(super) const NSH_ETHER_TYPE: EtherType = EtherType(0x894f);
const NSH_PROTOCOL_AT: usize = 3;
const NSH_LENGTH_MASK: u8 = 0x3f;
/// Bytes of a LISP header.
const LISP_LEN: usize = 8;

/// What a VXLAN header at `at` carries.
pub(super) fn vxlan(frame: &[u8], at: usize) -> Opened {
    let flags = byte(frame, at)?;
    if flags & VXLAN_PROTOCOL != 0 {
        return protocol(frame, byte(frame, at + GPE_PROTOCOL_AT)?, at + VXLAN_LEN);
    }
    require(flags & VXLAN_VALID != 0)?;
    Inner::ethernet(frame, at + VXLAN_LEN)
}

/// A payload of VXLAN-GPE.
fn protocol(frame: &[u8], protocol: u8, at: usize) -> Opened {
    match protocol {
        NSH => nsh(frame, at),
        protocol => unserviced(frame, protocol, at),
    }
}

/// A payload of VXLAN-GPE other than NSH.
fn unserviced(frame: &[u8], protocol: u8, at: usize) -> Opened {
    match protocol {
        IPV4 => Ok(Inner::typed(EtherType::IPV4, at)),
        IPV6 => Ok(Inner::typed(EtherType::IPV6, at)),
        ETHERNET => Inner::ethernet(frame, at),
        MPLS => Ok(Inner::typed(mpls::ETHER_TYPE, at)),
        _ => Err(Unopened::NoPacket),
    }
}

/// What a network service header at `at` carries.
pub(super) fn nsh(frame: &[u8], at: usize) -> Opened {
    let length = usize::from(byte(frame, at + 1)? & NSH_LENGTH_MASK) * 4;
    unserviced(frame, byte(frame, at + NSH_PROTOCOL_AT)?, at + length)
}

/// What a Geneve header at `at` carries.
pub(super) fn geneve(frame: &[u8], at: usize) -> Opened {
    let [first, _] = bytes(frame, at)?;
    require(first & GENEVE_VERSION_MASK == 0)?;
    let (next, at) = (EtherType(be16(frame, at + 2)?), at + GENEVE_LEN + usize::from(first & GENEVE_OPTIONS_MASK) * 4);
    match next {
        TRANSPARENT_ETHERNET_BRIDGING => Inner::ethernet(frame, at),
        next => Ok(Inner::typed(next, at)),
    }
}

/// What a LISP data header at `at` carries.
pub(super) fn lisp(frame: &[u8], at: usize) -> Opened {
    Inner::ip(frame, at + LISP_LEN)
}
