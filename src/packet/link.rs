//! Link types: which parser a frame of each begins with.

use etherparse::{EtherType, LinuxSllHeader};

use super::headers::Link;
use super::inner::{Inner, Opened, Unopened, byte, bytes, ether_type_at, require};
use super::{erf, hdlc, llc, metadata, mpls, nflog, ppp, tags, tzsp, usb, wifi};
use crate::capture::LinkType;

/// Bytes of a cooked header, version 2, and the protocol of 802.2 frames in cooked headers.
const SLL2_LEN: usize = 20;
const SLL_LLC: EtherType = EtherType(0x0004);
/// Bytes of the address family of loopback link types, of OpenBSD's encapsulation header, of BSD's SLIP header, of Solaris's IPNET
/// header, and of Hilscher's netANALYZER header.
const LOOPBACK_LEN: usize = 4;
const ENCAPSULATION_LEN: usize = 12;
const SLIP_LEN: usize = 16;
const IPNET_LEN: usize = 24;
const NETANALYZER_LEN: usize = 4;
/// Bytes of preamble and start delimiter of an Ethernet frame.
const PREAMBLE_LEN: usize = 8;
/// FDDI and token ring: offsets of the addresses and of the LLC header, the bits of LLC frames in the frame control, and the bit of
/// a source route.
const FDDI_ADDRESSES_AT: usize = 1;
const FDDI_LLC_AT: usize = 13;
const FDDI_TYPE_MASK: u8 = 0xf0;
const FDDI_LLC: u8 = 0x50;
const TOKEN_RING_ADDRESSES_AT: usize = 2;
const TOKEN_RING_LLC_AT: usize = 14;
const TOKEN_RING_TYPE_MASK: u8 = 0xc0;
const TOKEN_RING_LLC: u8 = 0x40;
const TOKEN_RING_SOURCE_AT: usize = 8;
const SOURCE_ROUTED: u8 = 0x80;
const SOURCE_ROUTE_LEN_MASK: u8 = 0x1f;
/// Bytes of the network header of IP over Fibre Channel (RFC 2625); offset of the EtherType in IP over IEEE 1394 and InfiniBand.
const FIBRE_CHANNEL_LEN: usize = 16;
const IEEE1394_TYPE_AT: usize = 16;
const INFINIBAND_TYPE_AT: usize = 40;
const INFINIBAND_LEN: usize = 44;
/// SunATM: bytes of the header, bits of the traffic type, and its values LLC and LAN emulation, whose header has 2 bytes.
const SUN_ATM_LEN: usize = 4;
const SUN_ATM_TYPE_MASK: u8 = 0x0f;
const SUN_ATM_LANE: u8 = 1;
const SUN_ATM_LLC: u8 = 2;
const LANE_LEN: usize = 2;
/// Bytes before bridged Ethernet frames over ATM (RFC 2684).
const ATM_BRIDGE_PAD: usize = 2;

/// Whether frames of this link type are decoded.
pub(super) fn is_supported(link: LinkType) -> bool {
    parser(link).is_some()
}

/// What a frame of this link type at `at` carries.
pub(super) fn open(link: LinkType, frame: &[u8], at: usize) -> Opened {
    parser(link).ok_or(Unopened::NoPacket)?(frame, at)
}

/// The parser of a link type; `None` if there is none.
fn parser(link: LinkType) -> Option<fn(&[u8], usize) -> Opened> {
    Some(match link {
        LinkType::ETHERNET => Inner::ethernet,
        LinkType::LINUX_SLL => sll,
        LinkType::LINUX_SLL2 => sll2,
        LinkType::RAW | LinkType::DLT_RAW | LinkType::DLT_RAW_OPENBSD | LinkType::IPV4 | LinkType::IPV6 => Inner::ip,
        // The numbers of address families differ between systems, and so does their byte order: the IP version is reliable.
        LinkType::NULL | LinkType::LOOP => |frame, at| Inner::ip(frame, at + LOOPBACK_LEN),
        LinkType::PPP | LinkType::PPP_HDLC => ppp::ppp,
        LinkType::PPP_ETHER => ppp::pppoe,
        LinkType::PPP_PPPD => ppp::pppd,
        LinkType::PPP_WITH_DIR => ppp::with_direction,
        LinkType::C_HDLC => hdlc::cisco,
        LinkType::C_HDLC_WITH_DIR => |frame, at| hdlc::cisco(frame, at + 1),
        LinkType::FRELAY => hdlc::frame_relay,
        LinkType::FRELAY_WITH_DIR => |frame, at| hdlc::frame_relay(frame, at + 1),
        LinkType::MFR => hdlc::multilink_frame_relay,
        LinkType::IEEE802_11 => wifi::wifi,
        LinkType::IEEE802_11_RADIOTAP => wifi::radiotap,
        LinkType::IEEE802_11_PRISM => wifi::prism,
        LinkType::IEEE802_11_AVS => wifi::avs,
        LinkType::PPI => metadata::ppi,
        LinkType::PKTAP => metadata::pktap,
        LinkType::PFLOG => metadata::packet_filter,
        LinkType::ENC => |frame, at| Inner::ip(frame, at + ENCAPSULATION_LEN),
        LinkType::SLIP => |frame, at| Inner::ip(frame, at + SLIP_LEN),
        LinkType::IPNET => |frame, at| Inner::ip(frame, at + IPNET_LEN),
        LinkType::NFLOG => nflog::nflog,
        LinkType::MPLS => |_, at| Ok(Inner::typed(mpls::ETHER_TYPE, at)),
        LinkType::TZSP => tzsp::tzsp,
        LinkType::ERF => erf::erf,
        LinkType::USB_LINUX => |frame, at| usb::usb(frame, at, usb::HEADER_LEN),
        LinkType::USB_LINUX_MMAPPED => |frame, at| usb::usb(frame, at, usb::MAPPED_HEADER_LEN),
        LinkType::DOCSIS => metadata::docsis,
        LinkType::JUNIPER_ETHER => metadata::juniper_ethernet,
        LinkType::WIRESHARK_UPPER_PDU => metadata::exported,
        LinkType::NETANALYZER => |frame, at| Inner::ethernet(frame, at + NETANALYZER_LEN),
        LinkType::NETANALYZER_TRANSPARENT => |frame, at| Inner::ethernet(frame, at + NETANALYZER_LEN + PREAMBLE_LEN),
        LinkType::ETHERNET_MPACKET | LinkType::EPON => |frame, at| Inner::ethernet(frame, at + PREAMBLE_LEN),
        LinkType::DSA_TAG_BRCM => tags::broadcom,
        LinkType::DSA_TAG_BRCM_PREPEND => tags::broadcom_prepended,
        LinkType::DSA_TAG_DSA => tags::marvell,
        LinkType::DSA_TAG_EDSA => tags::marvell_ether_typed,
        LinkType::FDDI => fddi,
        LinkType::IEEE802_5 => token_ring,
        LinkType::IP_OVER_FC => |frame, at| Ok(llc::llc(frame, at + FIBRE_CHANNEL_LEN, 0)?.within(Link::FibreChannel, at)),
        LinkType::APPLE_IP_OVER_IEEE1394 => {
            |frame, at| Ok(Inner::typed(ether_type_at(frame, at + IEEE1394_TYPE_AT)?, at + IEEE1394_TYPE_AT + 2))
        }
        LinkType::IPOIB => |frame, at| Ok(Inner::typed(ether_type_at(frame, at + INFINIBAND_TYPE_AT)?, at + INFINIBAND_LEN)),
        LinkType::ATM_RFC1483 => |frame, at| llc::llc(frame, at, ATM_BRIDGE_PAD).or_else(|_| Inner::ip(frame, at)),
        LinkType::SUNATM => sun_atm,
        _ => return None,
    })
}

/// A Linux cooked header, version 1.
fn sll(frame: &[u8], at: usize) -> Opened {
    cooked(frame, Link::Sll, at, ether_type_at(frame, at + LinuxSllHeader::LEN - 2)?, at + LinuxSllHeader::LEN)
}

/// A Linux cooked header, version 2.
fn sll2(frame: &[u8], at: usize) -> Opened {
    let [high, low]: [u8; 2] = bytes::<SLL2_LEN>(frame, at).map(|[high, low, ..]| [high, low])?;
    cooked(frame, Link::Sll2, at, EtherType(u16::from_be_bytes([high, low])), at + SLL2_LEN)
}

fn cooked(frame: &[u8], link: Link, at: usize, ether_type: EtherType, next: usize) -> Opened {
    let plain = Inner::typed(ether_type, next);
    Ok(if ether_type == SLL_LLC { llc::llc(frame, next, 0).unwrap_or(plain) } else { plain }.within(link, at))
}

fn fddi(frame: &[u8], at: usize) -> Opened {
    require(byte(frame, at)? & FDDI_TYPE_MASK == FDDI_LLC)?;
    Ok(llc::llc(frame, at + FDDI_LLC_AT, 0)?.within(Link::Addresses, at + FDDI_ADDRESSES_AT))
}

fn token_ring(frame: &[u8], at: usize) -> Opened {
    require(byte(frame, at + 1)? & TOKEN_RING_TYPE_MASK == TOKEN_RING_LLC)?;
    let mut next = at + TOKEN_RING_LLC_AT;
    if byte(frame, at + TOKEN_RING_SOURCE_AT)? & SOURCE_ROUTED != 0 {
        next += usize::from(byte(frame, next)? & SOURCE_ROUTE_LEN_MASK);
    }
    Ok(llc::llc(frame, next, 0)?.within(Link::Addresses, at + TOKEN_RING_ADDRESSES_AT))
}

fn sun_atm(frame: &[u8], at: usize) -> Opened {
    match byte(frame, at)? & SUN_ATM_TYPE_MASK {
        SUN_ATM_LLC => llc::llc(frame, at + SUN_ATM_LEN, ATM_BRIDGE_PAD),
        SUN_ATM_LANE => Inner::ethernet(frame, at + SUN_ATM_LEN + LANE_LEN),
        _ => Err(Unopened::NoPacket),
    }
}
