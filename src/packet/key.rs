//! What stream does a packet belong to? Flow keys and host keys, independent of direction.

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
enum Family {
    Ipv4,
    Ipv6,
    Mac,
    None,
}

/// The identity of a stream; the smaller endpoint comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamKey {
    a: [u8; 16],
    b: [u8; 16],
    port_a: u16,
    port_b: u16,
    vlan: u16,
    /// IP protocol, or EtherType where the family is not IP.
    proto: u16,
    family: Family,
    kind: KeyKind,
}

fn wide(address: &[u8]) -> [u8; 16] {
    let mut out = [0; 16];
    out[..address.len()].copy_from_slice(address);
    out
}

impl StreamKey {
    /// The key of the packet's flow, and which of its endpoints sent the packet. Later fragments have ports 0.
    #[inline]
    pub fn flow(h: &Headers, frame: &[u8]) -> (Self, Direction) {
        let at = usize::from(h.network_at);
        let (family, src, dst, proto) = match h.network {
            Network::Ipv4 => {
                (Family::Ipv4, wide(&frame[at + 12..at + 16]), wide(&frame[at + 16..at + 20]), u16::from(h.ip_protocol))
            }
            Network::Ipv6 => {
                (Family::Ipv6, wide(&frame[at + 8..at + 24]), wide(&frame[at + 24..at + 40]), u16::from(h.ip_protocol))
            }
            _ => match (h.src_mac(frame), h.dst_mac(frame)) {
                (None, None) => (Family::None, [0; 16], [0; 16], h.ether_type),
                (src, dst) => (Family::Mac, wide(&src.unwrap_or_default()), wide(&dst.unwrap_or_default()), h.ether_type),
            },
        };
        let (sport, dport) = h.ports(frame);
        let forward = (src, sport) <= (dst, dport);
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

    fn address(&self, octets: &[u8; 16]) -> String {
        match self.family {
            Family::Ipv4 => Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]).to_string(),
            Family::Ipv6 => Ipv6Addr::from(*octets).to_string(),
            Family::Mac => {
                let m = octets;
                format!("{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", m[0], m[1], m[2], m[3], m[4], m[5])
            }
            Family::None => String::new(),
        }
    }

    /// The first endpoint's address.
    pub fn addr_a(&self) -> String {
        self.address(&self.a)
    }

    /// The second endpoint's address.
    pub fn addr_b(&self) -> String {
        self.address(&self.b)
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
        (self.kind == KeyKind::Host).then(|| self.addr_a())
    }

    /// Whether the stream has ports.
    pub fn has_ports(&self) -> bool {
        matches!(self.family, Family::Ipv4 | Family::Ipv6) && matches!(self.proto, 6 | 17 | 132)
    }

    /// The protocol as Suricata spells it; a number where it has no name here.
    pub fn proto_name(&self) -> String {
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
                other => return other.to_string(),
            },
            (_, 0x0806) => "ARP",
            (_, 0x888e) => "EAPOL",
            (_, 0x88cc) => "LLDP",
            (_, 0) => "LLC",
            (_, other) => return format!("0x{other:04x}"),
        };
        name.to_string()
    }

    /// A number that tells this stream from others of the same key that begin at another time; the same on every run.
    /// 53 bits, so that every JSON reader holds it.
    pub fn flow_id(&self, first: u64) -> u64 {
        let mut hash = Sha1::new();
        hash.update(self.a);
        hash.update(self.b);
        for part in [self.port_a, self.port_b, self.vlan, self.proto] {
            hash.update(part.to_be_bytes());
        }
        hash.update([self.family as u8, self.kind as u8]);
        hash.update(first.to_be_bytes());
        let digest = hash.finalize();
        digest.iter().take(8).fold(0u64, |id, &octet| id << 8 | u64::from(octet)) >> 11
    }

    /// Community ID, version 1. For ICMP the type and code that the specification maps to ports are not part of a stream here,
    /// so its identifier is that of a protocol without ports.
    pub fn community_id(&self, seed: u16) -> Option<String> {
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
        Some(format!("1:{}", base64::engine::general_purpose::STANDARD.encode(hash.finalize())))
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
        assert_eq!(key.community_id(0).as_deref(), Some("1:LQU9qZlK+B5F3KDmev6m5PMibrg="));
    }
}
