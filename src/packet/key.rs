//! What stream does a packet belong to? Flow keys and host keys, independent of direction.

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base64::Engine as _;
use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};

use super::{Headers, NO_VLAN, Network};

/// What a model's streams are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyKind {
    /// 5-tuple, both directions, with the VLAN where tagged; non-IP frames by EtherType and addresses.
    Flow,
    /// Everything that a MAC address (an IP address where there is none) sends and receives.
    Host,
}

impl KeyKind {
    /// How many there are.
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

/// What the addresses of a key are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Family {
    Ipv4,
    Ipv6,
    Mac,
    None,
}

/// An endpoint's address; displayed as users know it, empty where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    octets: [u8; 16],
    family: Family,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let octets = &self.octets;
        match self.family {
            Family::Ipv4 => Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]).fmt(f),
            Family::Ipv6 => Ipv6Addr::from(*octets).fmt(f),
            Family::Mac => {
                let [m0, m1, m2, m3, m4, m5, ..] = octets;
                write!(f, "{m0:02x}:{m1:02x}:{m2:02x}:{m3:02x}:{m4:02x}:{m5:02x}")
            }
            Family::None => Ok(()),
        }
    }
}

/// Each octet as text with a dot behind it, and how long that is.
const DOTTED: [([u8; 4], usize); 256] = {
    let mut all = [([b'.'; 4], 0); 256];
    let mut octet = 0;
    while octet < 256 {
        let (text, length) = &mut all[octet];
        *length = if octet < 10 {
            2
        } else if octet < 100 {
            3
        } else {
            4
        };
        let (mut at, mut rest) = (*length - 1, octet);
        while at > 0 {
            at -= 1;
            text[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        octet += 1;
    }
    all
};

impl Address {
    /// Appends what is displayed; for IPv4 without the detour of formatting, since every event has two.
    pub fn write(&self, out: &mut Vec<u8>) {
        if self.family != Family::Ipv4 {
            write!(out, "{self}").expect("a vector takes all octets");
            return;
        }
        let (mut text, mut end) = ([0; 16], 0);
        for &octet in &self.octets[..4] {
            let (dotted, length) = DOTTED[usize::from(octet)];
            text[end..end + 4].copy_from_slice(&dotted);
            end += length;
        }
        out.extend_from_slice(&text[..end - 1]);
    }
}

/// The identity of a stream; the smaller endpoint comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamKey {
    pub(super) a: [u8; 16],
    pub(super) b: [u8; 16],
    pub(super) port_a: u16,
    pub(super) port_b: u16,
    pub(super) vlan: u16,
    /// IP protocol, or EtherType where the family is not IP.
    pub(super) proto: u16,
    pub(super) family: Family,
    kind: KeyKind,
}

#[inline]
fn wide(address: &[u8]) -> [u8; 16] {
    let mut out = [0; 16];
    // A length that is known where this is called makes the copy a plain move.
    out[..address.len()].copy_from_slice(address);
    out
}

impl Hash for StreamKey {
    /// Whole words, which cost a hasher less than octets one by one.
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(u128::from_ne_bytes(self.a));
        state.write_u128(u128::from_ne_bytes(self.b));
        let ports = u64::from(self.port_a) << 48 | u64::from(self.port_b) << 32;
        let kinds = u64::from(self.family as u8) << 4 | u64::from(self.kind as u8);
        state.write_u128(u128::from(ports | u64::from(self.vlan) << 16 | u64::from(self.proto)) << 64 | u128::from(kinds));
    }
}

impl StreamKey {
    /// The key of the packet's flow, and which of its endpoints sent the packet. Later fragments have ports 0.
    #[inline]
    pub fn flow(h: &Headers, frame: &[u8]) -> (Self, Direction) {
        // A label or tunnel header that is cut leads past the frame's end.
        let header = frame.get(usize::from(h.network_at)..).unwrap_or(&[]);
        let (sport, dport) = h.ports(frame);
        if h.network == Network::Ipv4 {
            // Most packets: address and port fit a word, so that endpoints are compared and put in order without a jump, which
            // would be guessed wrong for every other packet.
            let end = |address: &[u8], port: u16| {
                u64::from(u32::from_be_bytes(address.try_into().expect("four octets"))) << 16 | u64::from(port)
            };
            let (src, dst) = (end(&header[12..16], sport), end(&header[16..20], dport));
            let [a, b] = [src.min(dst), src.max(dst)];
            let key = Self {
                a: (u128::from(a >> 16) << 96).to_be_bytes(),
                b: (u128::from(b >> 16) << 96).to_be_bytes(),
                port_a: a as u16,
                port_b: b as u16,
                vlan: h.vlan,
                proto: u16::from(h.ip_protocol),
                family: Family::Ipv4,
                kind: KeyKind::Flow,
            };
            return (key, if src <= dst { Direction::Forward } else { Direction::Backward });
        }
        let (family, src, dst, proto) = match h.network {
            Network::Ipv6 => {
                let (src, dst) = header[8..40].split_at(16);
                (Family::Ipv6, wide(src), wide(dst), u16::from(h.ip_protocol))
            }
            _ => match (h.src_mac(frame), h.dst_mac(frame)) {
                (None, None) => (Family::None, [0; 16], [0; 16], h.ether_type),
                (src, dst) => (Family::Mac, wide(&src.unwrap_or_default()), wide(&dst.unwrap_or_default()), h.ether_type),
            },
        };
        let forward = (u128::from_be_bytes(src), sport) <= (u128::from_be_bytes(dst), dport);
        let (a, port_a, b, port_b) = if forward { (src, sport, dst, dport) } else { (dst, dport, src, sport) };
        let key = Self { a, b, port_a, port_b, vlan: h.vlan, proto, family, kind: KeyKind::Flow };
        (key, if forward { Direction::Forward } else { Direction::Backward })
    }

    /// Host keys of the sender and the receiver. Groups and everybody are no hosts.
    pub fn hosts(h: &Headers, frame: &[u8]) -> [Option<Self>; 2] {
        let host = |family, a| Self { a, b: [0; 16], port_a: 0, port_b: 0, vlan: NO_VLAN, proto: 0, family, kind: KeyKind::Host };
        let of = |mac: Option<[u8; 6]>, ip: Option<IpAddr>| match (mac, ip) {
            (Some(mac), _) => (mac[0] & 1 == 0 && mac != [0; 6]).then(|| host(Family::Mac, wide(&mac))),
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

    /// Who sends in this direction.
    pub fn sender(&self, direction: Direction) -> Address {
        match direction {
            Direction::Forward => self.addr_a(),
            Direction::Backward => self.addr_b(),
        }
    }

    /// What the key names.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The streams that a packet belongs to, with the direction it goes in each: its flow, or its sender's and its receiver's host.
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
        Address { octets: self.a, family: self.family }
    }

    /// The second endpoint's address.
    pub fn addr_b(&self) -> Address {
        Address { octets: self.b, family: self.family }
    }

    pub fn port_a(&self) -> u16 {
        self.port_a
    }

    pub fn port_b(&self) -> u16 {
        self.port_b
    }

    pub fn vlan(&self) -> Option<u16> {
        (self.vlan != NO_VLAN).then_some(self.vlan)
    }

    /// The host, for host keys.
    pub fn host(&self) -> Option<String> {
        (self.kind == KeyKind::Host).then(|| self.addr_a().to_string())
    }

    /// Whether the stream has ports.
    pub fn has_ports(&self) -> bool {
        matches!(self.family, Family::Ipv4 | Family::Ipv6) && matches!(self.proto, 6 | 17 | 132)
    }

    /// The protocol as Suricata spells it; a number where it has no name here.
    pub fn proto_name(&self) -> Cow<'static, str> {
        let name = match (self.family, self.proto) {
            (Family::Ipv4 | Family::Ipv6, proto) => match proto {
                1 => "ICMP",
                2 => "IGMP",
                6 => "TCP",
                17 => "UDP",
                47 => "GRE",
                50 => "ESP",
                51 => "AH",
                58 => "IPv6-ICMP",
                89 => "OSPF",
                103 => "PIM",
                112 => "VRRP",
                132 => "SCTP",
                other => return other.to_string().into(),
            },
            (_, 0x0806) => "ARP",
            (_, 0x888e) => "EAPOL",
            (_, 0x88cc) => "LLDP",
            (_, 0) => "LLC",
            (_, other) => return format!("0x{other:04x}").into(),
        };
        name.into()
    }

    /// A number that tells this stream from others of the same key that begin at another time; the same on every run.
    /// 53 bits, so that every JSON reader holds it.
    pub fn flow_id(&self, first: u64) -> u64 {
        // Folded multiplication, 64 bits at a time, as in wyhash; the constants are digits of pi.
        let fold = |id: u64, word: u64| {
            let product = u128::from(id ^ word) * 0x9216_d5d9_8979_fb1b;
            product as u64 ^ (product >> 64) as u64 ^ 0x243f_6a88_85a3_08d3
        };
        let [a, b] = [self.a, self.b].map(u128::from_be_bytes);
        let ports = u64::from(self.port_a) << 48 | u64::from(self.port_b) << 32;
        let rest = u64::from(self.vlan) << 32 | u64::from(self.proto) << 16 | (self.family as u64) << 8 | self.kind as u64;
        let words = [(a >> 64) as u64, a as u64, (b >> 64) as u64, b as u64, ports, rest, first, 0];
        words.into_iter().fold(0x1319_8a2e_0370_7344, fold) >> 11
    }

    /// Community ID, version 1, in ASCII. For ICMP the type and code that the specification maps to ports are not part of a stream
    /// here, so its identifier is that of a protocol without ports.
    pub fn community_id(&self, seed: u16) -> Option<[u8; 30]> {
        let length = match self.family {
            Family::Ipv4 => 4,
            Family::Ipv6 => 16,
            _ => return None,
        };
        if self.kind == KeyKind::Host {
            return None;
        }
        let mut hash = Sha1::new();
        hash.update(seed.to_be_bytes());
        hash.update(&self.a[..length]);
        hash.update(&self.b[..length]);
        hash.update([self.proto as u8, 0]);
        if self.has_ports() {
            hash.update(self.port_a.to_be_bytes());
            hash.update(self.port_b.to_be_bytes());
        }
        let mut id = *b"1:0000000000000000000000000000";
        let written = base64::engine::general_purpose::STANDARD.encode_slice(hash.finalize(), &mut id[2..]);
        assert_eq!(written, Ok(28), "a digest of twenty octets is 28 characters");
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
            vlan: NO_VLAN,
            proto: 6,
            family: Family::Ipv4,
            kind: KeyKind::Flow,
        };
        assert_eq!(key.community_id(0).as_ref(), Some(b"1:LQU9qZlK+B5F3KDmev6m5PMibrg="));
    }
}
