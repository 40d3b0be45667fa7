//! LLC and SNAP (IEEE 802.2, RFC 1042), and the encapsulations over ATM and frame relay that begin with them (RFC 2684, RFC 2427).

use etherparse::EtherType;

use super::inner::{Inner, Opened, Unopened, be16, byte, bytes, ether_type_at, require};

/// SNAP: both service access points 0xaa, unnumbered information.
const SNAP: [u8; 3] = [0xaa, 0xaa, 0x03];
/// IP without SNAP (RFC 948): service access points 0x06.
const IP: [u8; 3] = [0x06, 0x06, 0x03];
/// Routed ISO protocols (RFC 2684), which begin with an NLPID.
const ISO: [u8; 3] = [0xfe, 0xfe, 0x03];
/// Bytes of an LLC header of unnumbered frames, and of one with SNAP.
const LLC_LEN: usize = 3;
const SNAP_LEN: usize = 8;
/// SNAP organisations: EtherTypes (RFC 1042), bridge tunnels (IEEE 802.1H), and bridged frames (IEEE 802.1).
const OUI_ETHER_TYPE: [u8; 3] = [0, 0, 0];
const OUI_BRIDGE_TUNNEL: [u8; 3] = [0, 0, 0xf8];
const OUI_BRIDGED: [u8; 3] = [0, 0x80, 0xc2];
/// Protocols of the bridged organisation: Ethernet with and without frame check sequence.
const BRIDGED_ETHERNET: [u16; 2] = [0x0001, 0x0007];
/// Network layer protocol identifiers (ISO/IEC TR 9577).
const NLPID_PAD: u8 = 0x00;
const NLPID_SNAP: u8 = 0x80;
const NLPID_IPV6: u8 = 0x8e;
const NLPID_IPV4: u8 = 0xcc;
const NLPID_PPP: u8 = 0xcf;

/// What follows the LLC header at `at`. `bridge_pad` is the number of bytes before bridged Ethernet frames: 2 over ATM, else 0.
pub(super) fn llc(frame: &[u8], at: usize, bridge_pad: usize) -> Opened {
    match bytes(frame, at)? {
        SNAP => snap(frame, at + LLC_LEN, bridge_pad),
        IP => Inner::ip(frame, at + LLC_LEN),
        ISO => nlpid(frame, at + LLC_LEN),
        _ => Err(Unopened::NoPacket),
    }
}

/// What follows the organisation and protocol of SNAP at `at`.
fn snap(frame: &[u8], at: usize, bridge_pad: usize) -> Opened {
    let next = at + SNAP_LEN - LLC_LEN;
    match bytes(frame, at)? {
        OUI_ETHER_TYPE | OUI_BRIDGE_TUNNEL => Ok(Inner::typed(ether_type_at(frame, at + 3)?, next)),
        OUI_BRIDGED if BRIDGED_ETHERNET.contains(&be16(frame, at + 3)?) => Inner::ethernet(frame, next + bridge_pad),
        _ => Err(Unopened::NoPacket),
    }
}

/// What follows the network layer protocol identifier at `at`.
pub(super) fn nlpid(frame: &[u8], at: usize) -> Opened {
    match byte(frame, at)? {
        NLPID_IPV4 => Ok(Inner::typed(EtherType::IPV4, at + 1)),
        NLPID_IPV6 => Ok(Inner::typed(EtherType::IPV6, at + 1)),
        NLPID_SNAP => snap(frame, at + 1, 0),
        NLPID_PAD => {
            require(byte(frame, at + 1)? != NLPID_PAD)?;
            nlpid(frame, at + 1)
        }
        NLPID_PPP => super::ppp::protocol(frame, at + 1),
        _ => Err(Unopened::NoPacket),
    }
}
