//! Decoder of frames: link header, tags, network and transport header, tunnels within each other.
//!
//! One pass over the bytes with one bounds check per header. Truncated packets are decoded as far as they go. A differential test
//! compares the result with etherparse's lax slicing.

use etherparse::{
    EtherType, Ethernet2Header, IpAuthHeaderSlice, IpNumber, Ipv4Header, Ipv6FragmentHeaderSlice, Ipv6Header,
    Ipv6RawExtHeaderSlice, TcpHeader, UdpHeader,
};
use serde::{Deserialize, Serialize};

use super::headers::{Headers, Link, Network, Transport, Tunnel};
use super::inner::{Inner, Opened, Unopened, be16};
use super::tunnels::{TunnelSettings, UdpTunnel};
use super::{capwap, gre, gtp, l2tp, link, llc, mpls, ppp, tags, teredo, tzsp, vxlan};
use crate::capture::LinkType;

/// Most VLAN tags and MPLS labels that are followed; more are seen only in attacks.
const MAX_TAGS: usize = 8;
/// Most IPv6 extension headers that are followed (RFC 8200 lists seven, each once).
const MAX_EXTENSIONS: usize = 10;
/// Headers beyond this offset, in bytes, are not decoded, so that offsets fit 16 bits.
const MAX_HEADERS: usize = 60_000;
/// Lowest EtherType; below are the lengths of 802.3 frames, which have an LLC header.
const MIN_ETHER_TYPE: EtherType = EtherType(0x0600);
/// PPPoE session stage (RFC 2516).
const PPPOE_SESSION: EtherType = EtherType(0x8864);
/// EtherIP (RFC 3378): version in the first byte, and bytes before the frame.
const ETHER_IP_VERSION: u8 = 0x30;
const ETHER_IP_LEN: usize = 2;
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
/// Offset in a UDP header (RFC 768) of the datagram's length.
const UDP_LENGTH_AT: usize = 4;

/// Why a frame could not be decoded at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Undecodable {
    /// The link type is not supported.
    UnsupportedLink(LinkType),
    /// The frame ends within the link header.
    Truncated,
    /// The frame of a supported link type carries no packet: management and encrypted frames of 802.11, transfers of other USB
    /// devices, and others.
    NoPacket(LinkType),
}

/// Decoder of frames.
#[derive(Clone, Copy, Debug, Default)]
pub struct Decoder {
    tunnels: TunnelSettings,
}

impl Decoder {
    /// A decoder that opens all tunnels, to a depth of four, or none.
    pub const fn new(open_tunnels: bool) -> Self {
        Self::with_tunnels(if open_tunnels { TunnelSettings::DEFAULT } else { TunnelSettings::DEFAULT.with_depth(0) })
    }

    /// The decoder with another depth of tunnels.
    #[must_use]
    pub const fn with_depth(&self, depth: u8) -> Self {
        Self::with_tunnels(self.tunnels.with_depth(depth))
    }

    /// A decoder that opens these tunnels.
    pub const fn with_tunnels(tunnels: TunnelSettings) -> Self {
        Self { tunnels }
    }
}

/// Fast path for most frames: Ethernet, IPv4 without options, the first or only fragment of TCP or UDP. `None` means that the frame
/// is of another kind, or too short.
#[inline]
fn plain(tunnels: &TunnelSettings, link_type: LinkType, frame: &[u8]) -> Option<Headers> {
    const IP: usize = Ethernet2Header::LEN;
    const OVER: usize = IP + Ipv4Header::MIN_LEN;
    let head: &[u8; OVER + TCP_FLAGS_AT + 1] = frame.first_chunk()?;
    let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let protocol = IpNumber(head[IP + 9]);
    let tunnel = || tunnels.may_be(word(OVER), word(OVER + 2));
    let (tcp, udp) = (protocol == IpNumber::TCP, protocol == IpNumber::UDP && !tunnel());
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

impl Decoder {
    /// Finds the headers of a frame's innermost packet.
    ///
    /// # Errors
    /// If the link type is not supported, or the frame ends within the link header.
    #[inline]
    pub fn decode(&self, link_type: LinkType, frame: &[u8]) -> Result<Headers, Undecodable> {
        match plain(&self.tunnels, link_type, frame) {
            Some(headers) => Ok(headers),
            None => self.any(link_type, frame),
        }
    }

    /// Headers of all packets of a frame: of the IP packets that hold a tunnel, outermost first, and of the innermost packet. None if the frame
    /// can't be decoded.
    pub fn decode_all(&self, link_type: LinkType, frame: &[u8]) -> impl Iterator<Item = Headers> {
        let innermost = self.decode(link_type, frame).ok();
        innermost.into_iter().flat_map(move |headers| self.outer(link_type, frame, headers.tunnel_depth).chain([headers]))
    }

    /// Headers of the IP packets of a frame that are within fewer than `depth` tunnels, outermost first. A tunnel in no IP packet of its own, as
    /// an Ethernet pseudowire, has none.
    #[inline]
    pub fn outer(&self, link_type: LinkType, frame: &[u8], depth: u8) -> impl Iterator<Item = Headers> {
        (0..depth).filter_map(move |depth| {
            let headers = self.with_depth(depth).decode(link_type, frame).ok()?;
            // A tunnel that leads to another link header only is not opened without the tunnel behind that.
            let own = headers.tunnel_depth == depth && matches!(headers.network, Network::Ipv4 | Network::Ipv6);
            own.then_some(headers)
        })
    }

    /// [`Decoder::decode`] for every kind of frame.
    fn any(&self, link_type: LinkType, frame: &[u8]) -> Result<Headers, Undecodable> {
        let mut h = Headers { payload_end: frame.len() as u32, ..Headers::NONE };
        match link::open(link_type, frame, 0) {
            Ok(inner) => self.network(&mut h, frame, inner),
            Err(_) if !link::is_supported(link_type) => return Err(Undecodable::UnsupportedLink(link_type)),
            Err(Unopened::Truncated) => return Err(Undecodable::Truncated),
            Err(Unopened::NoPacket) => return Err(Undecodable::NoPacket(link_type)),
        }
        Ok(h)
    }

    /// Follows tags, then decodes the network header and what it contains.
    fn network(&self, h: &mut Headers, frame: &[u8], inner: Inner) {
        if let Some((link, at)) = inner.link.filter(|&(_, at)| at <= MAX_HEADERS) {
            (h.link, h.link_at) = (link, at as u16);
        }
        let mut next = inner;
        for _ in 0..MAX_TAGS {
            match self.skip_tag(h, frame, next) {
                Some(Inner { link: None, ether_type, at }) => next = Inner { ether_type, at, ..next },
                // A link header among the tags takes the place of the one before.
                Some(Inner { link: Some(_), .. }) | None => break,
            }
        }
        let Inner { link, ether_type, at } = next;
        if h.tunnel_depth < self.tunnels.depth() && self.bridged(h, frame, next) {
            return;
        }
        let llc = ether_type < MIN_ETHER_TYPE && matches!(link, Some((Link::Ethernet, _)));
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

    /// What follows a tag, a label or an LLC header; `None` if there is none, or it was truncated.
    fn skip_tag(&self, h: &mut Headers, frame: &[u8], Inner { link, ether_type, at }: Inner) -> Option<Inner> {
        match ether_type {
            EtherType::IPV4 | EtherType::IPV6 | EtherType::ARP => None,
            mpls::ETHER_TYPE | mpls::ETHER_TYPE_MULTICAST => {
                let next = at + mpls::LABEL_LEN;
                if mpls::is_bottom(frame, at).ok()? {
                    // Otherwise the last label stays, for what is bridged below it.
                    Inner::ip(frame, next).ok()
                } else {
                    Some(Inner::typed(ether_type, next))
                }
            }
            PPPOE_SESSION => ppp::pppoe(frame, at).ok().filter(|inner| inner.link.is_none()),
            length if length < MIN_ETHER_TYPE && matches!(link, Some((Link::Ethernet, _))) => {
                // Other protocols over LLC stay LLC.
                let inner = llc::llc(frame, at, 0).ok().filter(|inner| inner.link.is_none())?;
                let known = matches!(inner.ether_type, EtherType::IPV4 | EtherType::IPV6 | EtherType::ARP);
                (known || tags::tag(frame, inner.ether_type, inner.at).is_some()).then_some(inner)
            }
            _ => {
                let tag = tags::tag(frame, ether_type, at)?.ok()?;
                h.vlans = h.vlans.with(tag.vlan);
                Some(tag.inner)
            }
        }
    }

    /// Opens an Ethernet frame that another one, or MPLS, carries.
    fn bridged(&self, h: &mut Headers, frame: &[u8], Inner { ether_type, at, .. }: Inner) -> bool {
        let (tunnel, inner) = match ether_type {
            EtherType::IPV4 | EtherType::IPV6 | EtherType::ARP => return false,
            mpls::ETHER_TYPE | mpls::ETHER_TYPE_MULTICAST => {
                // A MAC address may look like an IP version or a control word: what leads to a packet counts.
                let bottom = mpls::is_bottom(frame, at) == Ok(true);
                let frames = mpls::pseudowires(frame, at + mpls::LABEL_LEN);
                return bottom && frames.into_iter().flatten().any(|inner| self.descend(h, frame, Tunnel::Pseudowire, inner));
            }
            tags::BACKBONE => (Tunnel::BackboneBridge, tags::backbone(frame, at)),
            vxlan::NSH_ETHER_TYPE => (Tunnel::Nsh, vxlan::nsh(frame, at)),
            gre::TRANSPARENT_ETHERNET_BRIDGING => (Tunnel::EthernetBridging, Inner::ethernet(frame, at)),
            _ => return false,
        };
        inner.is_ok_and(|inner| self.descend(h, frame, tunnel, inner))
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
            let rest = frame.get(place..).unwrap_or(&[]);
            let Some(extension) = Extension::of(next, rest) else { break };
            (next, place, h.later_fragment) = (extension.next, place + extension.length, extension.later_fragment);
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
                // UDP-Lite (RFC 3828) has the ports where UDP has them.
                IpNumber::UDP | IpNumber::UDP_LITE => (Transport::Udp, UdpHeader::LEN),
                IpNumber::SCTP => (Transport::Sctp, SCTP_LEN),
                IpNumber::ICMP => (Transport::Icmp, ICMP_LEN),
                IpNumber::IPV6_ICMP => (Transport::Icmpv6, ICMP_LEN),
                IpNumber::IGMP => (Transport::Igmp, IGMP_LEN),
                _ => (Transport::Other, 0),
            };
            if h.tunnel_depth < self.tunnels.depth() && self.tunnel(h, &frame[..end], protocol, at, wire_end) {
                return;
            }
        }
        let payload = (at + header).min(wire_end);
        h.payload_at = payload.min(end) as u32;
        h.payload_wire_len = (wire_end - payload) as u32;
    }

    /// Opens the tunnel of an IP packet that ends with `frame`, and at `wire_end` on the wire.
    fn tunnel(&self, h: &mut Headers, frame: &[u8], protocol: IpNumber, at: usize, wire_end: usize) -> bool {
        let opened = match protocol {
            IpNumber::UDP => {
                // Other protocols may happen to have the same port: then the inner packet does not fit.
                let Some((tunnel, Ok(inner))) = self.udp_tunnel(frame, at) else { return false };
                let outer = *h;
                // The first fragment of a datagram ends before the datagram does.
                let datagram_end = be16(frame, at + UDP_LENGTH_AT).map_or(0, |length| at + usize::from(length));
                let opened = self.descend(h, frame, tunnel, inner) && fits(h, frame, wire_end.max(datagram_end));
                if !opened {
                    *h = outer;
                }
                return opened;
            }
            IpNumber::IPV4 => Ok((Tunnel::IpInIp, Inner::typed(EtherType::IPV4, at))),
            IpNumber::IPV6 => Ok((Tunnel::IpInIp, Inner::typed(EtherType::IPV6, at))),
            IpNumber::GRE => gre::gre(frame, at),
            IpNumber::ETHER_IP if frame.get(at) == Some(&ETHER_IP_VERSION) => {
                Inner::ethernet(frame, at + ETHER_IP_LEN).map(|inner| (Tunnel::EtherIp, inner))
            }
            IpNumber::MPLS_IN_IP => Ok((Tunnel::MplsInIp, Inner::typed(mpls::ETHER_TYPE, at))),
            _ => return false,
        };
        opened.is_ok_and(|(tunnel, inner)| self.descend(h, frame, tunnel, inner))
    }

    /// The tunnel of a UDP datagram at `at`, by its ports.
    fn udp_tunnel(&self, frame: &[u8], at: usize) -> Option<(Tunnel, Opened)> {
        let (source, destination) = (be16(frame, at).ok()?, be16(frame, at + 2).ok()?);
        let at = at + UdpHeader::LEN;
        Some(match self.tunnels.of_ports(source, destination)? {
            UdpTunnel::Vxlan | UdpTunnel::VxlanGpe => (Tunnel::Vxlan, vxlan::vxlan(frame, at)),
            UdpTunnel::Geneve => (Tunnel::Geneve, vxlan::geneve(frame, at)),
            UdpTunnel::Lisp => (Tunnel::Lisp, vxlan::lisp(frame, at)),
            UdpTunnel::Mpls => (Tunnel::MplsInIp, Ok(Inner::typed(mpls::ETHER_TYPE, at))),
            UdpTunnel::Tzsp => (Tunnel::Tzsp, tzsp::tzsp(frame, at)),
            UdpTunnel::Gtp => (Tunnel::Gtp, gtp::gtp(frame, at)),
            UdpTunnel::L2tp => (Tunnel::L2tp, l2tp::l2tp(frame, at)),
            UdpTunnel::Capwap => (Tunnel::Capwap, capwap::capwap(frame, at)),
            UdpTunnel::Teredo => (Tunnel::Teredo, teredo::teredo(frame, at)),
        })
    }

    /// Decodes what a tunnel carries, if that is IP or ARP; otherwise leaves the outer headers and returns `false`.
    fn descend(&self, h: &mut Headers, frame: &[u8], tunnel: Tunnel, inner: Inner) -> bool {
        if inner.at > MAX_HEADERS || !self.tunnels.opens(tunnel, h.tunnel_depth) {
            return false;
        }
        let mut tunnels = h.tunnels;
        tunnels[usize::from(h.tunnel_depth)] = tunnel;
        let mut deeper = Headers {
            tunnels,
            tunnel_depth: h.tunnel_depth + 1,
            link: h.link,
            link_at: h.link_at,
            vlans: h.vlans,
            payload_end: frame.len() as u32,
            ..Headers::NONE
        };
        self.network(&mut deeper, frame, inner);
        let opened = matches!(deeper.network, Network::Ipv4 | Network::Ipv6 | Network::Arp);
        if opened {
            *h = deeper;
        }
        opened
    }
}

/// Whether the IP packet that was found ends before `wire_end`, where the datagram around it ends on the wire.
fn fits(h: &Headers, frame: &[u8], wire_end: usize) -> bool {
    let at = usize::from(h.network_at);
    let length = match h.network {
        Network::Ipv4 => be16(frame, at + 2).map(usize::from),
        Network::Ipv6 => be16(frame, at + 4).map(|length| Ipv6Header::LEN + usize::from(length)),
        _ => Ok(0),
    };
    // Deeper tunnels end before those around them; it is enough that the innermost packet fits.
    length.is_ok_and(|length| at + length <= wire_end)
}

/// An IPv6 extension header.
struct Extension {
    next: IpNumber,
    length: usize,
    /// Whether the packet is a fragment other than the first.
    later_fragment: bool,
}

impl Extension {
    /// The extension header of type `kind` at the start of `bytes`; `None` if the type is another, or it was truncated.
    fn of(kind: IpNumber, bytes: &[u8]) -> Option<Self> {
        let (next, length, later_fragment) = match kind {
            IpNumber::IPV6_FRAGMENTATION_HEADER => {
                let header = Ipv6FragmentHeaderSlice::from_slice(bytes).ok()?;
                (header.next_header(), header.slice().len(), header.fragment_offset().value() != 0)
            }
            // Counts in other units than the rest (RFC 4302).
            IpNumber::AUTHENTICATION_HEADER => {
                let header = IpAuthHeaderSlice::from_slice(bytes).ok()?;
                (header.next_header(), header.slice().len(), false)
            }
            kind if Ipv6RawExtHeaderSlice::header_type_supported(kind) => {
                let header = Ipv6RawExtHeaderSlice::from_slice(bytes).ok()?;
                (header.next_header(), header.slice().len(), false)
            }
            _ => return None,
        };
        Some(Self { next, length, later_fragment })
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
                frame[36..38].copy_from_slice(&4789u16.to_be_bytes());
            }
            if let Some(byte) = frame.get_mut(46) {
                *byte = offset;
            }
            let plain = plain(&TunnelSettings::DEFAULT, LinkType::ETHERNET, &frame);
            if let Some(plain) = plain {
                for open_tunnels in [true, false] {
                    prop_assert_eq!(Ok(plain), Decoder::new(open_tunnels).any(LinkType::ETHERNET, &frame));
                }
            }
            let whole = frame.len() >= 48 && fragment & FRAGMENT_OFFSET_MASK == 0;
            let port = |at: usize| be16(&frame, at).expect("the ports");
            let tunnel = TunnelSettings::DEFAULT.may_be(port(34), port(36));
            let expected = whole && (protocol == 0 || protocol == 1 && !tunnel);
            prop_assert_eq!(plain.is_some(), expected);
        }
    }
}
