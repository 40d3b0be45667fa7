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

/// Whether label files give ports of the protocol.
fn has_ports(proto: &str) -> bool {
    matches!(proto, "TCP" | "UDP" | "SCTP")
}

impl StreamName {
    /// The flow between two ends, given in any order.
    pub(super) fn flow(protocol: &str, a: (&str, u16), b: (&str, u16)) -> Self {
        let proto = proto(protocol);
        let ported = has_ports(&proto);
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

impl StreamName {
    /// Whether the name has every word of `text`, in any order: an address, a port (`:80`), a protocol, or both ends as events and lists
    /// have them (`10.0.0.2:34398 > 10.0.0.1:80 TCP`). A word matches whole numbers and names only: `:80` is not in `:8080`.
    pub fn matches(&self, text: &str) -> bool {
        let name = self.to_string();
        let is_proto = |word: &str| matches!(self, Self::Flow { proto: own, .. } if proto(word) == *own);
        text.split_whitespace().filter(|&word| word != ">").all(|word| has_word(&name, word) || is_proto(word))
    }
}

/// Whether `name` contains `word`, and neither a letter nor a digit of the word goes on in the name.
fn has_word(name: &str, word: &str) -> bool {
    let goes_on =
        |inside: Option<char>, outside: Option<char>| [inside, outside].iter().all(|c| c.is_some_and(char::is_alphanumeric));
    name.match_indices(word).any(|(at, _)| {
        let (before, after) = (name[..at].chars().next_back(), name[at + word.len()..].chars().next());
        !goes_on(word.chars().next(), before) && !goes_on(word.chars().next_back(), after)
    })
}

impl std::fmt::Display for StreamName {
    /// Protocol and ends, spelled as `spiked read --unknown` spells them.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flow { proto, a, b } if !has_ports(proto) => write!(f, "{proto} {} {}", a.0, b.0),
            Self::Flow { proto, a, b } => {
                let end = |(address, port): &(String, u16)| match address.contains(':') {
                    true => format!("[{address}]:{port}"),
                    false => format!("{address}:{port}"),
                };
                write!(f, "{proto} {} {}", end(a), end(b))
            }
            Self::Host(host) => write!(f, "host {host}"),
        }
    }
}

fn canonical(address: &str) -> String {
    let bare = address.split('%').next().unwrap_or(address);
    bare.parse::<IpAddr>().map_or_else(|_| bare.to_ascii_lowercase(), |ip| ip.to_string())
}

#[cfg(test)]
mod tests {
    use super::StreamName;

    #[test]
    fn streams_are_found_by_their_ends_as_events_and_lists_have_them() {
        let http = StreamName::flow("TCP", ("10.0.0.2", 34398), ("10.0.0.1", 80));
        let found = [
            "10.0.0.2:34398 > 10.0.0.1:80 TCP",
            "10.0.0.2:34398          10.0.0.1:80   tcp",
            "TCP 10.0.0.1:80",
            ":80",
            "10.0.0.2",
        ];
        found.iter().for_each(|text| assert!(http.matches(text), "{text}"));
        let others = ["10.0.0.2:34398 > 10.0.0.1:8 TCP", "0.0.0.1:80", "10.0.0.2:3439", "10.0.0.1:80 UDP", "10.0.0.3"];
        others.iter().for_each(|text| assert!(!http.matches(text), "{text}"));
        let ping = StreamName::flow("58", ("fd00::1", 8), ("fd00::2", 0));
        assert!(ping.matches("fd00::2 > fd00::1 IPv6-ICMP") && !ping.matches("fd00::2 > fd00::1 TCP"));
    }

    #[test]
    fn streams_are_shown_as_reading_spells_their_ends() {
        let shown = |proto, a, b| StreamName::flow(proto, a, b).to_string();
        assert_eq!(shown("tcp", ("10.0.0.2", 80), ("10.0.0.1", 4000)), "TCP 10.0.0.1:4000 10.0.0.2:80");
        assert_eq!(shown("17", ("fd00::1", 53), ("fd00::2", 4000)), "UDP [fd00::1]:53 [fd00::2]:4000");
        assert_eq!(shown("58", ("fd00::1", 8), ("fd00::2", 0)), "ICMP fd00::1 fd00::2");
        assert_eq!(shown("ARP", ("02:00:00:00:00:01", 0), ("ff:ff:ff:ff:ff:ff", 0)), "ARP 02:00:00:00:00:01 ff:ff:ff:ff:ff:ff");
    }
}
