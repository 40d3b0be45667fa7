//! Names of streams in label files: the same for both directions and all spellings of addresses and protocols.

use std::net::IpAddr;

use crate::packet::StreamKey;

/// Name of a stream in label files; independent of direction and VLAN.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StreamName {
    /// Both ends of a flow, the smaller first; ports are 0 where the protocol has none.
    Flow {
        /// Protocol in capital letters.
        proto: String,
        /// One end: address and port.
        a: (String, u16),
        /// The other end.
        b: (String, u16),
    },
    /// Address of a host.
    Host(String),
}

/// The name of an IP protocol that label files may give by its number (IANA), as [`StreamKey::proto_name`] spells it in capital letters.
/// ICMPv6 is called ICMP, since logs do not distinguish them.
fn proto(text: &str) -> String {
    let name = text.to_ascii_uppercase();
    match name.as_str() {
        "1" | "58" | "ICMPV6" | "IPV6-ICMP" | "ICMP6" => "ICMP".into(),
        "2" => "IGMP".into(),
        "6" => "TCP".into(),
        "17" => "UDP".into(),
        "47" => "GRE".into(),
        "50" => "ESP".into(),
        "51" => "AH".into(),
        "89" | "OSPFIGP" => "OSPF".into(),
        "103" => "PIM".into(),
        "112" => "VRRP".into(),
        "132" => "SCTP".into(),
        _ => name,
    }
}

impl StreamName {
    /// The flow between two ends, given in any order.
    pub(super) fn flow(protocol: &str, a: (&str, u16), b: (&str, u16)) -> Self {
        let proto = proto(protocol);
        let ported = matches!(proto.as_str(), "TCP" | "UDP" | "SCTP");
        let end = |(address, port): (&str, u16)| (canonical(address), if ported { port } else { 0 });
        let (a, b) = (end(a), end(b));
        let (a, b) = if a <= b { (a, b) } else { (b, a) };
        Self::Flow { proto, a, b }
    }

    /// A host.
    pub(super) fn host(address: &str) -> Self {
        Self::Host(canonical(address))
    }

    /// The name of the stream of `key` in label files.
    pub fn of(key: &StreamKey) -> Self {
        match key.host() {
            Some(host) => Self::host(&host),
            None => {
                // Label files have port 0 for protocols without ports; the key of ICMP has type and code there.
                let port = |port| if key.has_ports() { port } else { 0 };
                let (a, b) = (key.addr_a().to_string(), key.addr_b().to_string());
                Self::flow(&key.proto_name(), (&a, port(key.port_a())), (&b, port(key.port_b())))
            }
        }
    }
}

impl std::fmt::Display for StreamName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flow { proto, a, b } => write!(f, "{proto} {}:{} {}:{}", a.0, a.1, b.0, b.1),
            Self::Host(host) => write!(f, "host {host}"),
        }
    }
}

fn canonical(address: &str) -> String {
    let bare = address.split('%').next().unwrap_or(address);
    bare.parse::<IpAddr>().map_or_else(|_| bare.to_ascii_lowercase(), |ip| ip.to_string())
}
