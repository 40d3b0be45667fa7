//! Where do the headers of this frame lie? Link header, tags, network and transport header, one tunnel level.
//!
//! One pass over the octets with a bounds check a header. Cut packets are decoded as far as they go. A differential test holds
//! it equal to etherparse's lax slicing.

use super::{Headers, Link, NO_VLAN, Network, Transport, Tunnel};

/// VLAN tags and MPLS labels followed at most: more are only seen in attacks.
const MAX_TAGS: usize = 8;
/// IPv6 extension headers followed at most (RFC 8200 lists seven, each once).
const MAX_EXTENSIONS: usize = 10;
/// Frames longer than this are decoded over their first octets only, so that offsets fit.
const MAX_HEADERS: usize = 60_000;
/// The IANA port of VXLAN (RFC 7348).
const VXLAN_PORT: u16 = 4789;

/// Why a frame could not be decoded at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Undecodable {
    /// The link type is not one of ours.
    UnsupportedLink(u16),
    /// Cut before the end of the link header.
    Truncated,
}

impl Undecodable {
    /// A word for a metric's label.
    pub fn reason(self) -> &'static str {
        match self {
            Self::UnsupportedLink(_) => "unsupported_link",
            Self::Truncated => "truncated",
        }
    }
}

/// Decodes frames.
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

/// What most frames are, at one glance: Ethernet, IPv4 without options, the first or only fragment of TCP or UDP. `None` says nothing.
#[inline]
fn plain(link_type: u16, frame: &[u8]) -> Option<Headers> {
    const IP: usize = 14;
    const OVER: usize = IP + 20;
    let head: &[u8; OVER + 14] = frame.first_chunk()?;
    let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let (tcp, udp) = (head[IP + 9] == 6, head[IP + 9] == 17 && word(OVER + 2) != VXLAN_PORT);
    let v4 = link_type == 1 && word(12) == 0x0800 && head[IP] == 0x45 && word(IP + 6) & 0x1fff == 0;
    if !(v4 && (tcp || udp)) {
        return None;
    }
    let total = usize::from(word(IP + 2));
    let wire_end = if total < 20 { frame.len() } else { IP + total };
    let end = wire_end.min(frame.len());
    let offset = if end > OVER + 12 { usize::from(head[OVER + 12] >> 4) * 4 } else { 0 };
    let payload = (OVER + if tcp { offset.max(20) } else { 8 }).min(wire_end);
    Some(Headers {
        link: Link::Ethernet,
        ether_type: 0x0800,
        network: Network::Ipv4,
        network_at: IP as u16,
        transport: if tcp { Transport::Tcp } else { Transport::Udp },
        transport_at: OVER as u16,
        ip_protocol: head[IP + 9],
        tcp_flags: if tcp { head[OVER + 13] } else { 0 },
        payload_at: payload.min(end) as u32,
        payload_end: end as u32,
        payload_wire_len: (wire_end - payload) as u32,
        ..Headers::NONE
    })
}

fn be16(frame: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]))
}

impl Decoder {
    /// Finds the headers of a frame.
    ///
    /// # Errors
    /// [`Undecodable`] where not even the link header can be read.
    #[inline]
    pub fn decode(&self, link_type: u16, frame: &[u8]) -> Result<Headers, Undecodable> {
        match plain(link_type, frame) {
            Some(headers) => Ok(headers),
            None => self.any(link_type, frame),
        }
    }

    /// [`Decoder::decode`] of whatever frame.
    fn any(&self, link_type: u16, frame: &[u8]) -> Result<Headers, Undecodable> {
        let mut h = Headers { payload_end: frame.len() as u32, ..Headers::NONE };
        let cut = Undecodable::Truncated;
        let ip = |first: Option<&u8>| match first.map(|b| b >> 4) {
            Some(4) => Some(0x0800),
            Some(6) => Some(0x86dd),
            _ => None,
        };
        let (ether_type, at) = match link_type {
            1 => {
                h.link = Link::Ethernet;
                (be16(frame, 12).ok_or(cut)?, 14)
            }
            113 => {
                h.link = Link::Sll;
                (be16(frame, 14).ok_or(cut)?, 16)
            }
            276 => {
                h.link = Link::Sll2;
                if frame.len() < 20 {
                    return Err(cut);
                }
                (be16(frame, 0).ok_or(cut)?, 20)
            }
            101 | 12 | 14 | 228 | 229 => (ip(frame.first()).ok_or(cut)?, 0),
            // The address family is in the byte order of the capturing host, so its numbers differ by system: trust the version nibble.
            0 | 108 => (ip(frame.get(4)).ok_or(cut)?, 4),
            9 | 50 => {
                let skip = if frame.starts_with(&[0xff, 3]) { 2 } else { 0 };
                (ppp(be16(frame, skip).ok_or(cut)?), skip + 2)
            }
            other => return Err(Undecodable::UnsupportedLink(other)),
        };
        self.network(&mut h, frame, ether_type, at);
        Ok(h)
    }

    /// Follows tags, then the network header.
    fn network(&self, h: &mut Headers, frame: &[u8], mut ether_type: u16, mut at: usize) {
        for _ in 0..MAX_TAGS {
            match ether_type {
                0x8100 | 0x88a8 | 0x9100 => {
                    let (Some(tag), Some(next)) = (be16(frame, at), be16(frame, at + 2)) else { break };
                    if h.vlan == NO_VLAN {
                        h.vlan = tag & 0x0fff;
                    }
                    (ether_type, at) = (next, at + 4);
                }
                0x8847 | 0x8848 => {
                    let Some(&bottom) = frame.get(at + 2) else { break };
                    at += 4;
                    if bottom & 1 == 1 {
                        match frame.get(at).map(|b| b >> 4) {
                            Some(4) => ether_type = 0x0800,
                            Some(6) => ether_type = 0x86dd,
                            _ => break,
                        }
                    }
                }
                0x8864 => {
                    let Some(protocol) = be16(frame, at + 6) else { break };
                    (ether_type, at) = (ppp(protocol), at + 8);
                }
                _ => break,
            }
        }
        let llc = ether_type < 0x0600 && h.link == Link::Ethernet;
        h.ether_type = if llc { 0 } else { ether_type };
        h.network_at = at.min(MAX_HEADERS) as u16;
        h.payload_at = at.min(frame.len()) as u32;
        h.payload_wire_len = (frame.len() - h.payload_at as usize) as u32;
        match ether_type {
            _ if at > MAX_HEADERS => h.network = Network::Other,
            0x0800 if self.ipv4(h, frame, at) => {}
            0x86dd if self.ipv6(h, frame, at) => {}
            0x0806 => h.network = Network::Arp,
            _ => h.network = Network::Other,
        }
    }

    fn ipv4(&self, h: &mut Headers, frame: &[u8], at: usize) -> bool {
        let Some(ip) = frame.get(at..at + 20) else { return false };
        let length = usize::from(ip[0] & 15) * 4;
        if ip[0] >> 4 != 4 || length < 20 {
            return false;
        }
        let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
        // Total length 0 comes from segmentation offload: the packet goes on to the frame's end.
        let wire_end = if total < length { frame.len().max(at + length) } else { at + total };
        let fragment = u16::from_be_bytes([ip[6], ip[7]]);
        h.network = Network::Ipv4;
        h.later_fragment = fragment & 0x1fff != 0;
        self.transport(h, frame, ip[9], at + length, wire_end);
        true
    }

    fn ipv6(&self, h: &mut Headers, frame: &[u8], at: usize) -> bool {
        let Some(ip) = frame.get(at..at + 40) else { return false };
        if ip[0] >> 4 != 6 {
            return false;
        }
        let length = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
        let wire_end = if length == 0 { frame.len().max(at + 40) } else { at + 40 + length };
        h.network = Network::Ipv6;
        let (mut next, mut place) = (ip[6], at + 40);
        for _ in 0..MAX_EXTENSIONS {
            let Some(extension) = frame.get(place..place + 8) else { break };
            let size = match next {
                0 | 43 | 60 | 135 | 139 | 140 => (usize::from(extension[1]) + 1) * 8,
                51 => (usize::from(extension[1]) + 2) * 4,
                44 => {
                    h.later_fragment = u16::from_be_bytes([extension[2], extension[3]]) >> 3 != 0;
                    8
                }
                _ => break,
            };
            (next, place) = (extension[0], place + size);
            if h.later_fragment {
                break;
            }
        }
        self.transport(h, frame, next, place, wire_end);
        true
    }

    fn transport(&self, h: &mut Headers, frame: &[u8], protocol: u8, at: usize, wire_end: usize) {
        let end = wire_end.min(frame.len());
        h.ip_protocol = protocol;
        h.transport_at = at.min(u16::MAX as usize) as u16;
        h.payload_end = end as u32;
        let mut header = 0;
        if !h.later_fragment && at <= MAX_HEADERS {
            let own = frame.get(at..end).unwrap_or(&[]);
            (h.transport, header) = match protocol {
                6 => {
                    h.tcp_flags = frame.get(at + 13).copied().unwrap_or(0);
                    (Transport::Tcp, own.get(12).map_or(20, |b| usize::from(b >> 4) * 4).max(20))
                }
                17 => (Transport::Udp, 8),
                132 => (Transport::Sctp, 12),
                1 => (Transport::Icmp, 8),
                58 => (Transport::Icmpv6, 8),
                2 => (Transport::Igmp, 8),
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

    /// Opens a tunnel where there is one and its inside decodes as IP or Ethernet with IP; else leaves the outer headers.
    fn tunnel(&self, h: &mut Headers, frame: &[u8], protocol: u8, at: usize, end: usize) -> bool {
        let frame = &frame[..end];
        let (kind, inner_type, inner_at) = match protocol {
            4 => (Tunnel::IpInIp, 0x0800, at),
            41 => (Tunnel::IpInIp, 0x86dd, at),
            47 => {
                let (Some(flags), Some(inner)) = (be16(frame, at), be16(frame, at + 2)) else { return false };
                // Version 0 (RFC 2784, 2890): checksum, key and sequence number are four octets each.
                if flags & 7 != 0 {
                    return false;
                }
                let optional = [0x8000, 0x2000, 0x1000].iter().filter(|&&bit| flags & bit != 0).count();
                (Tunnel::Gre, inner, at + 4 + optional * 4)
            }
            17 if be16(frame, at + 2) == Some(VXLAN_PORT) && frame.get(at + 8).is_some_and(|f| f & 8 != 0) => {
                (Tunnel::Vxlan, 0x6558, at + 16)
            }
            _ => return false,
        };
        let mut inner = *h;
        inner.tunnel = kind;
        (inner.transport, inner.network) = (Transport::None, Network::None);
        if inner_type == 0x6558 {
            let Some(ether_type) = be16(frame, inner_at + 12) else { return false };
            if inner_at > MAX_HEADERS {
                return false;
            }
            (inner.link, inner.link_at) = (Link::Ethernet, inner_at as u16);
            self.network(&mut inner, frame, ether_type, inner_at + 14);
        } else {
            self.network(&mut inner, frame, inner_type, inner_at);
        }
        if matches!(inner.network, Network::Ipv4 | Network::Ipv6) || inner.network == Network::Arp {
            *h = inner;
            return true;
        }
        false
    }
}

fn ppp(protocol: u16) -> u16 {
    match protocol {
        0x0021 => 0x0800,
        0x0057 => 0x86dd,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5_000))]
        #[test]
        fn plain_frames_are_decoded_as_any_frame_is(
            mut frame in prop::collection::vec(any::<u8>(), 40..90), protocol in 0usize..3, offset: u8, total in 0u16..90, fragment in prop::sample::select(vec![0u16, 0x2000, 0x4000, 0x2001, 7]), vxlan: bool,
        ) {
            frame[12..15].copy_from_slice(&[8, 0, 0x45]);
            frame[16..18].copy_from_slice(&total.to_be_bytes());
            frame[20..22].copy_from_slice(&fragment.to_be_bytes());
            frame[23] = [6, 17, 1][protocol];
            if vxlan {
                frame[36..38].copy_from_slice(&VXLAN_PORT.to_be_bytes());
            }
            if let Some(byte) = frame.get_mut(46) {
                *byte = offset;
            }
            let plain = plain(1, &frame);
            if let Some(plain) = plain {
                for open_tunnels in [true, false] {
                    prop_assert_eq!(Ok(plain), Decoder { open_tunnels }.any(1, &frame));
                }
            }
            let whole = frame.len() >= 48 && fragment & 0x1fff == 0;
            let expected = whole && (protocol == 0 || protocol == 1 && be16(&frame, 36) != Some(VXLAN_PORT));
            prop_assert_eq!(plain.is_some(), expected);
        }
    }
}
