//! Decoder of frames: link header, tags, network and transport header, one tunnel level.
//!
//! One pass over the bytes with one bounds check per header. Truncated packets are decoded as far as they go. A differential test
//! compares the result with etherparse's lax slicing.

use etherparse::{EtherType, Ethernet2Header, IpNumber, Ipv4Header, Ipv6Header, LinuxSllHeader, TcpHeader, UdpHeader};

use super::headers::{Headers, Link, NO_VLAN, Network, Transport, Tunnel};
use crate::capture::LinkType;

/// Most VLAN tags and MPLS labels that are followed; more are seen only in attacks.
const MAX_TAGS: usize = 8;
/// Most IPv6 extension headers that are followed (RFC 8200 lists seven, each once).
const MAX_EXTENSIONS: usize = 10;
/// Headers beyond this offset, in bytes, are not decoded, so that offsets fit 16 bits.
const MAX_HEADERS: usize = 60_000;
/// UDP port of VXLAN (RFC 7348).
const VXLAN_PORT: u16 = 4789;
/// Bytes of a VXLAN header, and the flag in its first byte that its network identifier is valid.
const VXLAN_LEN: usize = 8;
const VXLAN_VALID: u8 = 0x08;
/// Lowest EtherType; below are the lengths of 802.3 frames, which have an LLC header.
const MIN_ETHER_TYPE: EtherType = EtherType(0x0600);
/// MPLS (RFC 3032, RFC 5332): EtherTypes, the bytes of a label, and the bit in its third byte that marks the last label.
const MPLS: EtherType = EtherType(0x8847);
const MPLS_MULTICAST: EtherType = EtherType(0x8848);
const MPLS_LABEL_LEN: usize = 4;
const MPLS_BOTTOM: u8 = 1;
/// Bytes of a VLAN tag (IEEE 802.1Q), and the bits of its identifier.
const VLAN_TAG_LEN: usize = 4;
const VLAN_ID_MASK: u16 = 0x0fff;
/// PPPoE session stage (RFC 2516): EtherType, and bytes before the PPP protocol.
const PPPOE_SESSION: EtherType = EtherType(0x8864);
const PPPOE_LEN: usize = 6;
/// PPP (RFC 1661, RFC 1662): address and control field of HDLC-like framing, which may be absent, and protocols.
const PPP_ADDRESS_CONTROL: [u8; 2] = [0xff, 0x03];
const PPP_IPV4: u16 = 0x0021;
const PPP_IPV6: u16 = 0x0057;
/// Ethernet frames within GRE (RFC 1701).
const TRANSPARENT_ETHERNET_BRIDGING: EtherType = EtherType(0x6558);
/// GRE (RFC 2784, RFC 2890): bytes without optional fields, bits of the version, and the flags of the optional fields checksum, key
/// and sequence number, of 4 bytes each.
const GRE_LEN: usize = 4;
const GRE_VERSION_MASK: u16 = 0x0007;
const GRE_OPTIONAL_FIELDS: [u16; 3] = [0x8000, 0x2000, 0x1000];
/// Bytes of a cooked header, version 2, and of the address family of loopback link types.
const SLL2_LEN: usize = 20;
const LOOPBACK_LEN: usize = 4;
/// First byte of an IPv4 header without options.
const IPV4_WITHOUT_OPTIONS: u8 = 0x45;
/// Bits of the fragment offset in the seventh and eighth byte of an IPv4 header (RFC 791).
const FRAGMENT_OFFSET_MASK: u16 = 0x1fff;
/// Bytes of the fixed part of SCTP (RFC 9260), ICMP (RFC 792, RFC 4443) and IGMP (RFC 2236) headers.
const SCTP_LEN: usize = 12;
const ICMP_LEN: usize = 8;
const IGMP_LEN: usize = 8;
/// Offsets in a TCP header (RFC 9293) of the header's length, in 32-bit words in the upper 4 bits, and of the flags.
const TCP_DATA_OFFSET_AT: usize = 12;
const TCP_FLAGS_AT: usize = 13;

/// Why a frame could not be decoded at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Undecodable {
    /// The link type is not supported.
    UnsupportedLink(LinkType),
    /// The frame ends within the link header.
    Truncated,
}

/// Decoder of frames.
#[derive(Clone, Copy, Debug)]
pub struct Decoder {
    /// Whether GRE, VXLAN and IP-in-IP are opened, one level.
    pub open_tunnels: bool,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { open_tunnels: true }
    }
}

/// Fast path for most frames: Ethernet, IPv4 without options, the first or only fragment of TCP or UDP. `None` means that the frame
/// is of another kind, or too short.
#[inline]
fn plain(link_type: LinkType, frame: &[u8]) -> Option<Headers> {
    const IP: usize = Ethernet2Header::LEN;
    const OVER: usize = IP + Ipv4Header::MIN_LEN;
    let head: &[u8; OVER + TCP_FLAGS_AT + 1] = frame.first_chunk()?;
    let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let protocol = IpNumber(head[IP + 9]);
    let (tcp, udp) = (protocol == IpNumber::TCP, protocol == IpNumber::UDP && word(OVER + 2) != VXLAN_PORT);
    let v4 = link_type == LinkType::ETHERNET
        && word(12) == EtherType::IPV4.0
        && head[IP] == IPV4_WITHOUT_OPTIONS
        && word(IP + 6) & FRAGMENT_OFFSET_MASK == 0;
    if !(v4 && (tcp || udp)) {
        return None;
    }
    let total = usize::from(word(IP + 2));
    let wire_end = if total < Ipv4Header::MIN_LEN { frame.len() } else { IP + total };
    let end = wire_end.min(frame.len());
    let data_offset = OVER + TCP_DATA_OFFSET_AT;
    let tcp_len = if end > data_offset { usize::from(head[data_offset] >> 4) * 4 } else { 0 };
    let payload = (OVER + if tcp { tcp_len.max(TcpHeader::MIN_LEN) } else { UdpHeader::LEN }).min(wire_end);
    Some(Headers {
        link: Link::Ethernet,
        ether_type: EtherType::IPV4.0,
        network: Network::Ipv4,
        network_at: IP as u16,
        transport: if tcp { Transport::Tcp } else { Transport::Udp },
        transport_at: OVER as u16,
        ip_protocol: protocol.0,
        tcp_flags: if tcp { head[OVER + TCP_FLAGS_AT] } else { 0 },
        payload_at: payload.min(end) as u32,
        payload_end: end as u32,
        payload_wire_len: (wire_end - payload) as u32,
        ..Headers::NONE
    })
}

fn be16(frame: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]))
}

fn ether_type_at(frame: &[u8], at: usize) -> Option<EtherType> {
    be16(frame, at).map(EtherType)
}

/// The EtherType of an IP packet at `at`, by its version; `None` if it is neither 4 nor 6.
fn ip_at(frame: &[u8], at: usize) -> Option<EtherType> {
    match frame.get(at)? >> 4 {
        4 => Some(EtherType::IPV4),
        6 => Some(EtherType::IPV6),
        _ => None,
    }
}

/// The EtherType of the PPP protocol at `at`; protocols other than IP keep their number.
fn ppp_at(frame: &[u8], at: usize) -> Option<EtherType> {
    Some(match be16(frame, at)? {
        PPP_IPV4 => EtherType::IPV4,
        PPP_IPV6 => EtherType::IPV6,
        other => EtherType(other),
    })
}

impl Decoder {
    /// Finds the headers of a frame.
    ///
    /// # Errors
    /// If the link type is not supported, or the frame ends within the link header.
    #[inline]
    pub fn decode(&self, link_type: LinkType, frame: &[u8]) -> Result<Headers, Undecodable> {
        match plain(link_type, frame) {
            Some(headers) => Ok(headers),
            None => self.any(link_type, frame),
        }
    }

    /// [`Decoder::decode`] for every kind of frame.
    fn any(&self, link_type: LinkType, frame: &[u8]) -> Result<Headers, Undecodable> {
        let mut h = Headers { payload_end: frame.len() as u32, ..Headers::NONE };
        let (ether_type, at) = match link_type {
            LinkType::ETHERNET => {
                h.link = Link::Ethernet;
                (ether_type_at(frame, 12), Ethernet2Header::LEN)
            }
            LinkType::LINUX_SLL => {
                h.link = Link::Sll;
                (ether_type_at(frame, 14), LinuxSllHeader::LEN)
            }
            LinkType::LINUX_SLL2 => {
                h.link = Link::Sll2;
                (ether_type_at(frame, 0).filter(|_| frame.len() >= SLL2_LEN), SLL2_LEN)
            }
            LinkType::RAW | LinkType::DLT_RAW | LinkType::DLT_RAW_OPENBSD | LinkType::IPV4 | LinkType::IPV6 => {
                (ip_at(frame, 0), 0)
            }
            // The numbers of address families differ between systems, and so does their byte order: the IP version is reliable.
            LinkType::NULL | LinkType::LOOP => (ip_at(frame, LOOPBACK_LEN), LOOPBACK_LEN),
            LinkType::PPP | LinkType::PPP_HDLC => {
                let skip = if frame.starts_with(&PPP_ADDRESS_CONTROL) { PPP_ADDRESS_CONTROL.len() } else { 0 };
                (ppp_at(frame, skip), skip + 2)
            }
            other => return Err(Undecodable::UnsupportedLink(other)),
        };
        self.network(&mut h, frame, ether_type.ok_or(Undecodable::Truncated)?, at);
        Ok(h)
    }

    /// Follows tags, then decodes the network header and what it contains.
    fn network(&self, h: &mut Headers, frame: &[u8], mut ether_type: EtherType, mut at: usize) {
        for _ in 0..MAX_TAGS {
            match ether_type {
                EtherType::VLAN_TAGGED_FRAME | EtherType::PROVIDER_BRIDGING | EtherType::VLAN_DOUBLE_TAGGED_FRAME => {
                    let (Some(tag), Some(next)) = (be16(frame, at), ether_type_at(frame, at + 2)) else { break };
                    if h.vlan == NO_VLAN {
                        h.vlan = tag & VLAN_ID_MASK;
                    }
                    (ether_type, at) = (next, at + VLAN_TAG_LEN);
                }
                MPLS | MPLS_MULTICAST => {
                    let Some(&bottom) = frame.get(at + 2) else { break };
                    at += MPLS_LABEL_LEN;
                    if bottom & MPLS_BOTTOM != 0 {
                        let Some(ip) = ip_at(frame, at) else { break };
                        ether_type = ip;
                    }
                }
                PPPOE_SESSION => {
                    let Some(next) = ppp_at(frame, at + PPPOE_LEN) else { break };
                    (ether_type, at) = (next, at + PPPOE_LEN + 2);
                }
                _ => break,
            }
        }
        let llc = ether_type < MIN_ETHER_TYPE && h.link == Link::Ethernet;
        h.ether_type = if llc { 0 } else { ether_type.0 };
        h.network_at = at.min(MAX_HEADERS) as u16;
        h.payload_at = at.min(frame.len()) as u32;
        h.payload_wire_len = (frame.len() - h.payload_at as usize) as u32;
        match ether_type {
            _ if at > MAX_HEADERS => h.network = Network::Other,
            EtherType::IPV4 if self.ipv4(h, frame, at) => {}
            EtherType::IPV6 if self.ipv6(h, frame, at) => {}
            EtherType::ARP => h.network = Network::Arp,
            _ => h.network = Network::Other,
        }
    }

    /// Decodes an IPv4 header (RFC 791) and what it contains; `false` if it is invalid.
    fn ipv4(&self, h: &mut Headers, frame: &[u8], at: usize) -> bool {
        let Some(ip) = frame.get(at..at + Ipv4Header::MIN_LEN) else { return false };
        let length = usize::from(ip[0] & 15) * 4;
        if ip[0] >> 4 != 4 || length < Ipv4Header::MIN_LEN {
            return false;
        }
        let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
        // Segmentation offload leaves the total length at 0: the packet then extends to the end of the frame.
        let wire_end = if total < length { frame.len().max(at + length) } else { at + total };
        let fragment = u16::from_be_bytes([ip[6], ip[7]]);
        h.network = Network::Ipv4;
        h.later_fragment = fragment & FRAGMENT_OFFSET_MASK != 0;
        self.transport(h, frame, IpNumber(ip[9]), at + length, wire_end);
        true
    }

    /// Decodes an IPv6 header with its extension headers (RFC 8200) and what it contains; `false` if it is invalid.
    fn ipv6(&self, h: &mut Headers, frame: &[u8], at: usize) -> bool {
        let Some(ip) = frame.get(at..at + Ipv6Header::LEN) else { return false };
        if ip[0] >> 4 != 6 {
            return false;
        }
        let payload = at + Ipv6Header::LEN;
        let length = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
        let wire_end = if length == 0 { frame.len().max(payload) } else { payload + length };
        h.network = Network::Ipv6;
        let (mut next, mut place) = (IpNumber(ip[6]), payload);
        for _ in 0..MAX_EXTENSIONS {
            let Some(extension) = frame.get(place..place + 8) else { break };
            let size = match next {
                IpNumber::IPV6_HEADER_HOP_BY_HOP
                | IpNumber::IPV6_ROUTE_HEADER
                | IpNumber::IPV6_DESTINATION_OPTIONS
                | IpNumber::MOBILITY_HEADER
                | IpNumber::HIP
                | IpNumber::SHIM6 => (usize::from(extension[1]) + 1) * 8,
                // RFC 4302 counts in other units than the rest.
                IpNumber::AUTHENTICATION_HEADER => (usize::from(extension[1]) + 2) * 4,
                IpNumber::IPV6_FRAGMENTATION_HEADER => {
                    h.later_fragment = u16::from_be_bytes([extension[2], extension[3]]) >> 3 != 0;
                    8
                }
                _ => break,
            };
            (next, place) = (IpNumber(extension[0]), place + size);
            if h.later_fragment {
                break;
            }
        }
        self.transport(h, frame, next, place, wire_end);
        true
    }

    /// Decodes the transport header at `at`, or the tunnel that begins there, in an IP packet that ends at `wire_end` on the wire.
    fn transport(&self, h: &mut Headers, frame: &[u8], protocol: IpNumber, at: usize, wire_end: usize) {
        let end = wire_end.min(frame.len());
        h.ip_protocol = protocol.0;
        h.transport_at = at.min(u16::MAX as usize) as u16;
        h.payload_end = end as u32;
        let mut header = 0;
        if !h.later_fragment && at <= MAX_HEADERS {
            let own = frame.get(at..end).unwrap_or(&[]);
            (h.transport, header) = match protocol {
                IpNumber::TCP => {
                    h.tcp_flags = frame.get(at + TCP_FLAGS_AT).copied().unwrap_or(0);
                    let length = own.get(TCP_DATA_OFFSET_AT).map_or(0, |b| usize::from(b >> 4) * 4);
                    (Transport::Tcp, length.max(TcpHeader::MIN_LEN))
                }
                IpNumber::UDP => (Transport::Udp, UdpHeader::LEN),
                IpNumber::SCTP => (Transport::Sctp, SCTP_LEN),
                IpNumber::ICMP => (Transport::Icmp, ICMP_LEN),
                IpNumber::IPV6_ICMP => (Transport::Icmpv6, ICMP_LEN),
                IpNumber::IGMP => (Transport::Igmp, IGMP_LEN),
                _ => (Transport::Other, 0),
            };
            if self.open_tunnels && h.tunnel == Tunnel::None && self.tunnel(h, frame, protocol, at, end) {
                return;
            }
        }
        let payload = (at + header).min(wire_end);
        h.payload_at = payload.min(end) as u32;
        h.payload_wire_len = (wire_end - payload) as u32;
    }

    /// Opens a tunnel, if there is one and it contains IP, ARP, or Ethernet with one of these; otherwise leaves the outer headers and
    /// returns `false`.
    fn tunnel(&self, h: &mut Headers, frame: &[u8], protocol: IpNumber, at: usize, end: usize) -> bool {
        let frame = &frame[..end];
        let vxlan = |udp: usize| {
            be16(frame, udp + 2) == Some(VXLAN_PORT) && frame.get(udp + UdpHeader::LEN).is_some_and(|f| f & VXLAN_VALID != 0)
        };
        let (kind, inner_type, inner_at) = match protocol {
            IpNumber::IPV4 => (Tunnel::IpInIp, EtherType::IPV4, at),
            IpNumber::IPV6 => (Tunnel::IpInIp, EtherType::IPV6, at),
            IpNumber::GRE => {
                let (Some(flags), Some(inner)) = (be16(frame, at), ether_type_at(frame, at + 2)) else { return false };
                if flags & GRE_VERSION_MASK != 0 {
                    return false;
                }
                let optional = GRE_OPTIONAL_FIELDS.iter().filter(|&&flag| flags & flag != 0).count();
                (Tunnel::Gre, inner, at + GRE_LEN + optional * 4)
            }
            IpNumber::UDP if vxlan(at) => (Tunnel::Vxlan, TRANSPARENT_ETHERNET_BRIDGING, at + UdpHeader::LEN + VXLAN_LEN),
            _ => return false,
        };
        let mut inner = *h;
        inner.tunnel = kind;
        (inner.transport, inner.network) = (Transport::None, Network::None);
        if inner_type == TRANSPARENT_ETHERNET_BRIDGING {
            let Some(ether_type) = ether_type_at(frame, inner_at + 12) else { return false };
            if inner_at > MAX_HEADERS {
                return false;
            }
            (inner.link, inner.link_at) = (Link::Ethernet, inner_at as u16);
            self.network(&mut inner, frame, ether_type, inner_at + Ethernet2Header::LEN);
        } else {
            self.network(&mut inner, frame, inner_type, inner_at);
        }
        let opened = matches!(inner.network, Network::Ipv4 | Network::Ipv6 | Network::Arp);
        if opened {
            *h = inner;
        }
        opened
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5_000))]
        #[test]
        fn the_fast_path_decodes_as_the_general_path(
            mut frame in prop::collection::vec(any::<u8>(), 40..90), protocol in 0usize..3, offset: u8, total in 0u16..90, fragment in prop::sample::select(vec![0u16, 0x2000, 0x4000, 0x2001, 7]), vxlan: bool,
        ) {
            frame[12..15].copy_from_slice(&[8, 0, 0x45]);
            frame[16..18].copy_from_slice(&total.to_be_bytes());
            frame[20..22].copy_from_slice(&fragment.to_be_bytes());
            frame[23] = [IpNumber::TCP, IpNumber::UDP, IpNumber::ICMP][protocol].0;
            if vxlan {
                frame[36..38].copy_from_slice(&VXLAN_PORT.to_be_bytes());
            }
            if let Some(byte) = frame.get_mut(46) {
                *byte = offset;
            }
            let plain = plain(LinkType::ETHERNET, &frame);
            if let Some(plain) = plain {
                for open_tunnels in [true, false] {
                    prop_assert_eq!(Ok(plain), Decoder { open_tunnels }.any(LinkType::ETHERNET, &frame));
                }
            }
            let whole = frame.len() >= 48 && fragment & FRAGMENT_OFFSET_MASK == 0;
            let expected = whole && (protocol == 0 || protocol == 1 && be16(&frame, 36) != Some(VXLAN_PORT));
            prop_assert_eq!(plain.is_some(), expected);
        }
    }
}
