//! Keys of the streams that a packet belongs to: flow keys and host keys, the same in both directions.

use std::borrow::Cow;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;

use base64::Engine as _;
use etherparse::{EtherType, IpNumber};
use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};

use super::VlanTags;
use super::address::{Address, Family};
use super::headers::{Headers, Network, Transport};
use super::icmp::IcmpEnds;

/// EtherType of EAP over LANs (IEEE 802.1X).
const EAPOL: EtherType = EtherType(0x888e);
/// EtherType of the Link Layer Discovery Protocol (IEEE 802.1AB).
const LLDP: EtherType = EtherType(0x88cc);
/// [`Headers::ether_type`] of 802.3 frames with an LLC header.
const LLC: EtherType = EtherType(0);
/// The EUI-48 bit of group addresses, in the first byte.
const MAC_GROUP_BIT: u8 = 1;

/// The kind of streams that a model classifies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyKind {
    /// 5-tuple in both directions, with the VLANs if tagged; non-IP frames by EtherType and MAC addresses.
    Flow,
    /// Everything that a MAC address (an IP address if there is none) sends and receives.
    Host,
}

impl KeyKind {
    /// Number of variants.
    pub const COUNT: usize = 2;
}

/// Which endpoint sent a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The key's first endpoint.
    Forward,
    /// The key's second endpoint.
    Backward,
}

impl Direction {
    /// The other direction.
    #[must_use]
    pub fn reverse(self) -> Self {
        match self {
            Self::Forward => Self::Backward,
            Self::Backward => Self::Forward,
        }
    }
}

/// The identity of a stream. The smaller endpoint (address, then port) comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamKey {
    pub(super) a: [u8; 16],
    pub(super) b: [u8; 16],
    pub(super) port_a: u16,
    pub(super) port_b: u16,
    pub(super) vlans: VlanTags,
    /// IP protocol, or the EtherType if the family is not IP.
    pub(super) proto: u16,
    form: Form,
}

/// Family, kind, and in the upper five bits the interface, in one byte, since streams are many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Form(u8);

impl Form {
    /// Bits of family and kind.
    const BITS: u8 = 3;
    const MASK: u8 = (1 << Self::BITS) - 1;

    const fn new(family: Family, kind: KeyKind) -> Self {
        Self((family as u8) << 1 | kind as u8)
    }

    fn family(self) -> Family {
        [Family::Ipv4, Family::Ipv6, Family::Mac, Family::None][usize::from(self.0 >> 1 & 3)]
    }

    fn kind(self) -> KeyKind {
        if self.0 & 1 == 0 { KeyKind::Flow } else { KeyKind::Host }
    }
}

/// An address, padded with zeros to 16 bytes.
#[inline]
fn wide(address: &[u8]) -> [u8; 16] {
    let mut out = [0; 16];
    // Inlined with a known length, the copy is a plain move.
    out[..address.len()].copy_from_slice(address);
    out
}

impl Hash for StreamKey {
    /// Feeds whole words, which cost a hasher less than single bytes.
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(u128::from_ne_bytes(self.a));
        state.write_u128(u128::from_ne_bytes(self.b));
        let ports = u64::from(self.port_a) << 48 | u64::from(self.port_b) << 32;
        let rest = self.vlans.bits() << 8 | u64::from(self.form.0);
        state.write_u128(u128::from(ports | u64::from(self.proto)) << 64 | u128::from(rest));
    }
}

impl StreamKey {
    /// The key of a packet's flow, and which of its endpoints sent the packet. Fragments after the first have ports 0.
    ///
    /// ICMP messages have their type and that of the answer in place of ports, or type and code if there is no answer, as in the
    /// Community ID specification. Messages without an answer are a flow of their own for each sender, which is the first endpoint.
    #[inline(always)]
    pub fn flow(h: &Headers, frame: &[u8]) -> (Self, Direction) {
        if h.network != Network::Ipv4 || h.transport == Transport::Icmp {
            return Self::other_flow(h, frame);
        }
        // The common case stays in registers. Address and port fit a word, so that endpoints are ordered without a branch, which would be
        // mispredicted for every other packet.
        let header = frame.get(usize::from(h.network_at)..).unwrap_or(&[]);
        let (sport, dport) = h.ports(frame);
        let end = |address: &[u8], port: u16| {
            u64::from(u32::from_be_bytes(address.try_into().expect("the slice has four bytes"))) << 16 | u64::from(port)
        };
        let (src, dst) = (end(&header[12..16], sport), end(&header[16..20], dport));
        let [a, b] = [src.min(dst), src.max(dst)];
        let key = Self {
            a: (u128::from(a >> 16) << 96).to_be_bytes(),
            b: (u128::from(b >> 16) << 96).to_be_bytes(),
            port_a: a as u16,
            port_b: b as u16,
            vlans: h.vlans,
            proto: u16::from(h.ip_protocol),
            form: const { Form::new(Family::Ipv4, KeyKind::Flow) },
        };
        (key, if src <= dst { Direction::Forward } else { Direction::Backward })
    }

    /// [`StreamKey::flow`] of a packet that is not IPv4, or is ICMP.
    #[inline(never)]
    fn other_flow(h: &Headers, frame: &[u8]) -> (Self, Direction) {
        // After a truncated label or tunnel header, the offset is past the end of the frame.
        let header = frame.get(usize::from(h.network_at)..).unwrap_or(&[]);
        let (sport, dport) = h.ports(frame);
        let icmp = IcmpEnds::of(h, frame);
        let (sport, dport) = icmp.as_ref().map_or((sport, dport), |ends| (ends.source, ends.destination));
        let (family, src, dst, proto) = match h.network {
            Network::Ipv4 => {
                let (src, dst) = header[12..20].split_at(4);
                (Family::Ipv4, wide(src), wide(dst), u16::from(h.ip_protocol))
            }
            Network::Ipv6 => {
                let (src, dst) = header[8..40].split_at(16);
                (Family::Ipv6, wide(src), wide(dst), u16::from(h.ip_protocol))
            }
            _ => match (h.src_mac(frame), h.dst_mac(frame)) {
                (None, None) => (Family::None, [0; 16], [0; 16], h.ether_type),
                (src, dst) => (Family::Mac, wide(&src.unwrap_or_default()), wide(&dst.unwrap_or_default()), h.ether_type),
            },
        };
        let one_way = icmp.is_some_and(|ends| ends.one_way);
        let forward = one_way || (u128::from_be_bytes(src), sport) <= (u128::from_be_bytes(dst), dport);
        let (a, port_a, b, port_b) = if forward { (src, sport, dst, dport) } else { (dst, dport, src, sport) };
        let key = Self { a, b, port_a, port_b, vlans: h.vlans, proto, form: Form::new(family, KeyKind::Flow) };
        (key, if forward { Direction::Forward } else { Direction::Backward })
    }

    /// The key of a packet's flow with ports 0, and which of its endpoints sent the packet: what all fragments of an IP packet have in
    /// common. `None` if the packet is not IP.
    pub fn flow_without_ports(h: &Headers, frame: &[u8]) -> Option<(Self, Direction)> {
        let bare = Headers { transport: Transport::None, ..*h };
        matches!(h.network, Network::Ipv4 | Network::Ipv6).then(|| Self::flow(&bare, frame))
    }

    /// The key of a stream of one interface; those of number 31 and more are the same as those of 31 less.
    #[must_use]
    pub fn on_interface(self, number: usize) -> Self {
        Self { form: Form(self.form.0 & Form::MASK | ((number % 31 + 1) as u8) << Form::BITS), ..self }
    }

    /// The key of the same stream wherever its packets came in.
    #[must_use]
    pub fn without_interface(self) -> Self {
        Self { form: Form(self.form.0 & Form::MASK), ..self }
    }

    /// The key without VLANs, for streams that are the same in every VLAN.
    #[must_use]
    pub fn without_vlan(self) -> Self {
        Self { vlans: VlanTags::NONE, ..self }
    }

    /// Host keys of the sender and the receiver. Multicast, broadcast and unspecified addresses are not hosts.
    pub fn hosts(h: &Headers, frame: &[u8]) -> [Option<Self>; 2] {
        let host = |family, a| Self {
            a,
            b: [0; 16],
            port_a: 0,
            port_b: 0,
            vlans: VlanTags::NONE,
            proto: 0,
            form: Form::new(family, KeyKind::Host),
        };
        let of = |mac: Option<[u8; 6]>, ip: Option<IpAddr>| match (mac, ip) {
            (Some(mac), _) => (mac[0] & MAC_GROUP_BIT == 0 && mac != [0; 6]).then(|| host(Family::Mac, wide(&mac))),
            (None, Some(IpAddr::V4(ip))) => {
                (!ip.is_multicast() && !ip.is_broadcast() && !ip.is_unspecified()).then(|| host(Family::Ipv4, wide(&ip.octets())))
            }
            (None, Some(IpAddr::V6(ip))) => {
                (!ip.is_multicast() && !ip.is_unspecified()).then(|| host(Family::Ipv6, wide(&ip.octets())))
            }
            (None, None) => None,
        };
        let (sender, receiver) = (h.src_mac(frame), h.dst_mac(frame));
        [of(sender, h.src_addr(frame)), of(receiver, h.dst_addr(frame).filter(|_| sender.is_none()))]
    }

    /// The address that sends in this direction.
    pub fn sender(&self, direction: Direction) -> Address {
        self.ends(direction)[0].0
    }

    /// Address and port of both endpoints, first of that which sends in this direction. Ports are 0 where there are none.
    pub fn ends(&self, direction: Direction) -> [(Address, u16); 2] {
        let [a, b] = [(self.addr_a(), self.port_a()), (self.addr_b(), self.port_b())];
        match direction {
            Direction::Forward => [a, b],
            Direction::Backward => [b, a],
        }
    }

    /// Whether this is a flow or a host.
    pub fn kind(&self) -> KeyKind {
        self.form.kind()
    }

    /// The kind of its addresses.
    pub(super) fn family(&self) -> Family {
        self.form.family()
    }

    /// The streams that a packet belongs to, with its direction in each: its flow, or the hosts that send and receive it.
    #[inline]
    pub fn of(kind: KeyKind, h: &Headers, frame: &[u8]) -> [Option<(Self, Direction)>; 2] {
        match kind {
            KeyKind::Flow => [Some(Self::flow(h, frame)), None],
            KeyKind::Host => {
                let [sender, receiver] = Self::hosts(h, frame);
                [sender.map(|k| (k, Direction::Forward)), receiver.map(|k| (k, Direction::Backward))]
            }
        }
    }

    /// The first endpoint's address.
    pub fn addr_a(&self) -> Address {
        Address { bytes: self.a, family: self.family() }
    }

    /// The second endpoint's address.
    pub fn addr_b(&self) -> Address {
        Address { bytes: self.b, family: self.family() }
    }

    /// The first endpoint's port; 0 if the stream has no ports.
    pub fn port_a(&self) -> u16 {
        self.port_a
    }

    /// The second endpoint's port; 0 if the stream has no ports.
    pub fn port_b(&self) -> u16 {
        self.port_b
    }

    /// The VLANs of its packets; none if untagged.
    pub fn vlans(&self) -> VlanTags {
        self.vlans
    }

    /// The host's address, for host keys.
    pub fn host(&self) -> Option<String> {
        (self.kind() == KeyKind::Host).then(|| self.addr_a().to_string())
    }

    /// The IP protocol; `None` if the family is not IP.
    pub fn ip_number(&self) -> Option<IpNumber> {
        matches!(self.family(), Family::Ipv4 | Family::Ipv6).then_some(IpNumber(self.proto as u8))
    }

    /// IP version of the addresses; `None` if the family is not IP.
    pub fn ip_version(&self) -> Option<u8> {
        match self.family() {
            Family::Ipv4 => Some(4),
            Family::Ipv6 => Some(6),
            Family::Mac | Family::None => None,
        }
    }

    /// Whether the stream has ports.
    pub fn has_ports(&self) -> bool {
        matches!(self.ip_number(), Some(IpNumber::TCP | IpNumber::UDP | IpNumber::SCTP | IpNumber::UDP_LITE))
    }

    /// The protocol as Suricata spells it; its number if it has no name here.
    pub fn proto_name(&self) -> Cow<'static, str> {
        let name = match (self.ip_number(), EtherType(self.proto)) {
            (Some(IpNumber::ICMP), _) => "ICMP",
            (Some(IpNumber::IGMP), _) => "IGMP",
            (Some(IpNumber::TCP), _) => "TCP",
            (Some(IpNumber::UDP), _) => "UDP",
            (Some(IpNumber::GRE), _) => "GRE",
            (Some(IpNumber::ENCAPSULATING_SECURITY_PAYLOAD), _) => "ESP",
            (Some(IpNumber::AUTHENTICATION_HEADER), _) => "AH",
            (Some(IpNumber::IPV6_ICMP), _) => "IPv6-ICMP",
            (Some(IpNumber::OSPFIGP), _) => "OSPF",
            (Some(IpNumber::PIM), _) => "PIM",
            (Some(IpNumber::VRRP), _) => "VRRP",
            (Some(IpNumber::SCTP), _) => "SCTP",
            (Some(IpNumber::UDP_LITE), _) => "UDP-Lite",
            (Some(other), _) => return other.0.to_string().into(),
            (None, EtherType::ARP) => "ARP",
            (None, EAPOL) => "EAPOL",
            (None, LLDP) => "LLDP",
            (None, LLC) => "LLC",
            (None, other) => return format!("0x{:04x}", other.0).into(),
        };
        name.into()
    }

    /// An identifier of this stream that differs from other streams of the same key, which begin at another time `first`
    /// (nanoseconds). It is the same on every run, and has 53 bits, so that every JSON reader can represent it.
    pub fn flow_id(&self, first: u64) -> u64 {
        // Folded multiplication, 64 bits at a time, as in wyhash; the constants are digits of pi.
        let fold = |id: u64, word: u64| {
            let product = u128::from(id ^ word) * 0x9216_d5d9_8979_fb1b;
            product as u64 ^ (product >> 64) as u64 ^ 0x243f_6a88_85a3_08d3
        };
        let [a, b] = [self.a, self.b].map(u128::from_be_bytes);
        let ports = u64::from(self.port_a) << 48 | u64::from(self.port_b) << 32;
        let mut vlans = self.vlans.ids();
        // Without a VLAN as if with one that no tag can name.
        let vlan = u64::from(vlans.next().unwrap_or(u16::MAX)) | u64::from(vlans.next().unwrap_or(0)) << 16;
        let rest = vlan << 32 | u64::from(self.proto) << 16 | (self.family() as u64) << 8 | self.kind() as u64;
        let interface = u64::from(self.form.0 >> Form::BITS) | u64::from(vlans.next().unwrap_or(0)) << 8;
        let words = [(a >> 64) as u64, a as u64, (b >> 64) as u64, b as u64, ports, rest, first, interface];
        words.into_iter().fold(0x1319_8a2e_0370_7344, fold) >> 11
    }

    /// Community ID, version 1, in ASCII (<https://github.com/corelight/community-id-spec>); `None` if the stream is not an IP flow.
    pub fn community_id(&self, seed: u16) -> Option<[u8; 30]> {
        let length = match self.family() {
            Family::Ipv4 => 4,
            Family::Ipv6 => 16,
            _ => return None,
        };
        if self.kind() == KeyKind::Host {
            return None;
        }
        let mut hash = Sha1::new();
        hash.update(seed.to_be_bytes());
        hash.update(&self.a[..length]);
        hash.update(&self.b[..length]);
        hash.update([self.proto as u8, 0]);
        if self.has_ports() || self.icmp(Direction::Forward).is_some() {
            hash.update(self.port_a.to_be_bytes());
            hash.update(self.port_b.to_be_bytes());
        }
        let mut id = *b"1:0000000000000000000000000000";
        let written = base64::engine::general_purpose::STANDARD.encode_slice(hash.finalize(), &mut id[2..]);
        assert_eq!(written, Ok(28), "a digest of 20 bytes is 28 characters in base64");
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn community_id_is_the_specification_s_baseline() {
        let key = StreamKey {
            a: wide(&[66, 35, 250, 204]),
            b: wide(&[128, 232, 110, 120]),
            port_a: 80,
            port_b: 34855,
            vlans: VlanTags::NONE,
            proto: 6,
            form: Form::new(Family::Ipv4, KeyKind::Flow),
        };
        assert_eq!(key.community_id(0).as_ref(), Some(b"1:LQU9qZlK+B5F3KDmev6m5PMibrg="));
    }
}
