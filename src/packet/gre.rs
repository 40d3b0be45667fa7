//! GRE (RFC 1701, 2784, 2890), its version 1 of PPTP (RFC 2637), and what has no EtherType of its own within it: ERSPAN I to III
//! (draft-foschiano-erspan) and WCCP (draft-wilson-wrec-wccp-v2).

use etherparse::EtherType;

use super::headers::Tunnel;
use super::inner::{Inner, Opened, Unopened, be16, byte, bytes, require};
use super::{llc, ppp, wifi};

/// Bytes without optional fields, bits of the version, and the flags of the optional fields: checksum (and offset), routing, key,
/// sequence number, acknowledgement number (version 1), of 4 bytes each.
const HEADER_LEN: usize = 4;
const VERSION_MASK: u16 = 0x0007;
const CHECKSUM: u16 = 0x8000;
const ROUTING: u16 = 0x4000;
const KEY: u16 = 0x2000;
const SEQUENCE: u16 = 0x1000;
const ACKNOWLEDGEMENT: u16 = 0x0080;
const OPTIONAL_LEN: usize = 4;
/// Most entries of a source route that are followed, and bytes of one before its data.
const MAX_ROUTES: usize = 16;
const ROUTE_LEN: usize = 4;
/// Ethernet frames within GRE (RFC 1701).
pub(super) const TRANSPARENT_ETHERNET_BRIDGING: EtherType = EtherType(0x6558);
/// Protocol types that are not EtherTypes.
const FRAME_RELAY: EtherType = EtherType(0x6559);
const PPP: EtherType = EtherType(0x880b);
const WCCP: EtherType = EtherType(0x883e);
const ERSPAN: EtherType = EtherType(0x88be);
const ERSPAN_III: EtherType = EtherType(0x22eb);
/// Tunnels of Aruba's access points.
const ARUBA_FIRST: EtherType = EtherType(0x8200);
const ARUBA_LAST: EtherType = EtherType(0x8240);
/// Bytes of the headers of ERSPAN II and III, of the subheader that III may have, and the bit of its last byte that says so.
const ERSPAN_II_LEN: usize = 8;
const ERSPAN_III_LEN: usize = 12;
const ERSPAN_SUBHEADER: u8 = 1;
const ERSPAN_SUBHEADER_LEN: usize = 8;
/// Bytes of WCCP's redirect header, which its first version lacks.
const WCCP_LEN: usize = 4;

/// What a GRE header at `at` carries, and under which name.
pub(super) fn gre(frame: &[u8], at: usize) -> Result<(Tunnel, Inner), Unopened> {
    let (flags, protocol) = (be16(frame, at)?, EtherType(be16(frame, at + 2)?));
    let mut next = at + HEADER_LEN;
    match flags & VERSION_MASK {
        0 => {
            if flags & (CHECKSUM | ROUTING) != 0 {
                next += OPTIONAL_LEN;
            }
            next += OPTIONAL_LEN * [KEY, SEQUENCE].iter().filter(|&&flag| flags & flag != 0).count();
            if flags & ROUTING != 0 {
                next = skip_route(frame, next)?;
            }
        }
        // Without a sequence number, there is only an acknowledgement.
        1 => {
            require(flags & SEQUENCE != 0 && protocol == PPP)?;
            next += OPTIONAL_LEN * [KEY, SEQUENCE, ACKNOWLEDGEMENT].iter().filter(|&&flag| flags & flag != 0).count();
        }
        _ => return Err(Unopened::NoPacket),
    }
    let (tunnel, inner) = match protocol {
        PPP => (Tunnel::Pptp, ppp::ppp(frame, next)),
        ERSPAN if flags & SEQUENCE == 0 => (Tunnel::Erspan, Inner::ethernet(frame, next)),
        ERSPAN => (Tunnel::Erspan, Inner::ethernet(frame, next + ERSPAN_II_LEN)),
        ERSPAN_III => (Tunnel::Erspan, erspan_iii(frame, next)),
        WCCP => (Tunnel::Wccp, wccp(frame, next)),
        TRANSPARENT_ETHERNET_BRIDGING => (Tunnel::Gre, Inner::ethernet(frame, next)),
        FRAME_RELAY => (Tunnel::Gre, super::hdlc::frame_relay(frame, next)),
        protocol if (ARUBA_FIRST..=ARUBA_LAST).contains(&protocol) => (Tunnel::Gre, wifi::wifi(frame, next)),
        EtherType(0) => (Tunnel::Gre, llc::llc(frame, next, 0)),
        protocol => (Tunnel::Gre, Ok(Inner::typed(protocol, next))),
    };
    Ok((tunnel, inner?))
}

/// The end of a source route (RFC 1701): entries with address family, offset, length and data; the last has family and length 0.
fn skip_route(frame: &[u8], mut at: usize) -> Result<usize, Unopened> {
    for _ in 0..MAX_ROUTES {
        let [family_high, family_low, _, length] = bytes(frame, at)?;
        at += ROUTE_LEN + usize::from(length);
        if [family_high, family_low, length] == [0; 3] {
            return Ok(at);
        }
    }
    Err(Unopened::NoPacket)
}

fn erspan_iii(frame: &[u8], at: usize) -> Opened {
    let subheader = byte(frame, at + ERSPAN_III_LEN - 1)? & ERSPAN_SUBHEADER != 0;
    Inner::ethernet(frame, at + ERSPAN_III_LEN + if subheader { ERSPAN_SUBHEADER_LEN } else { 0 })
}

/// A packet that WCCP redirects: without a redirect header (version 1), or behind it.
fn wccp(frame: &[u8], at: usize) -> Opened {
    Inner::ip(frame, at).or_else(|_| Inner::ip(frame, at + WCCP_LEN))
}
