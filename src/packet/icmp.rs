//! Flows of ICMP and ICMPv6: which messages answer each other, after the Community ID specification, version 1.

use etherparse::IpNumber;

use super::headers::{Headers, Transport};
use super::key::{Direction, StreamKey};

/// The type of ICMP message that answers the type `kind`, or that it answers; `None` if the type has no counterpart. The pairs are
/// those of the Community ID specification, version 1.
fn icmp_answer(protocol: IpNumber, kind: u8) -> Option<u8> {
    /// Echo, router advertisement and solicitation, timestamp, information, address mask (RFC 792, 950, 1256).
    const V4: [(u8, u8); 5] = [(0, 8), (9, 10), (13, 14), (15, 16), (17, 18)];
    /// Echo, multicast listener, router, neighbour, node information, home agent (RFC 4443, 2710, 4861, 4620, 6275).
    const V6: [(u8, u8); 6] = [(128, 129), (130, 131), (133, 134), (135, 136), (139, 140), (144, 145)];
    let pairs: &[(u8, u8)] = if protocol == IpNumber::IPV6_ICMP { &V6 } else { &V4 };
    let counterpart = |&(a, b): &(u8, u8)| (a == kind).then_some(b).or((b == kind).then_some(a));
    pairs.iter().find_map(counterpart)
}

/// What an ICMP message has in place of ports.
pub(super) struct IcmpEnds {
    pub source: u16,
    pub destination: u16,
    /// The type has no counterpart.
    pub one_way: bool,
}

impl IcmpEnds {
    /// `None` if the packet is not ICMP or was cut before the code.
    pub fn of(h: &Headers, frame: &[u8]) -> Option<Self> {
        if !matches!(h.transport, Transport::Icmp | Transport::Icmpv6) {
            return None;
        }
        let at = usize::from(h.transport_at);
        let &[kind, code] = frame.get(at..at + 2)? else { return None };
        let answer = icmp_answer(IpNumber(h.ip_protocol), kind);
        Some(Self { source: kind.into(), destination: answer.unwrap_or(code).into(), one_way: answer.is_none() })
    }
}

impl StreamKey {
    /// Type and code of the ICMP messages that the endpoint `direction` sends; `None` for other protocols, and for fragments that do
    /// not begin with the ICMP header. Types with an answer have only the code 0.
    pub fn icmp(&self, direction: Direction) -> Option<(u8, u8)> {
        let protocol = self.ip_number().filter(|&number| matches!(number, IpNumber::ICMP | IpNumber::IPV6_ICMP))?;
        if (self.port_a, self.port_b) == (0, 0) {
            return None;
        }
        let [own, other] = match direction {
            Direction::Forward => [self.port_a, self.port_b],
            Direction::Backward => [self.port_b, self.port_a],
        };
        let kind = own as u8;
        Some((kind, if icmp_answer(protocol, kind).is_some() { 0 } else { other as u8 }))
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn icmp(source: &str, destination: &str, kind: u8, code: u8) -> (StreamKey, Direction) {
        let mut frame = Vec::new();
        let link = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]);
        let (source, destination) = (source.parse().expect("an address"), destination.parse().expect("an address"));
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                link.ipv4(source.octets(), destination.octets(), 64).icmpv4_raw(kind, code, [0; 4]).write(&mut frame, &[])
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                link.ipv6(source.octets(), destination.octets(), 64).icmpv6_raw(kind, code, [0; 4]).write(&mut frame, &[])
            }
            _ => panic!("addresses of two families"),
        }
        .expect("writing to a vector succeeds");
        let headers =
            crate::packet::Decoder::default().decode(crate::capture::LinkType::ETHERNET, &frame).expect("a whole frame");
        StreamKey::flow(&headers, &frame)
    }

    #[test]
    fn community_ids_of_icmp_are_the_specification_s_baseline() {
        let (a, b) = ("192.168.0.89", "192.168.0.1");
        let (a6, b6) = ("fe80::200:86ff:fe05:80da", "fe80::260:97ff:fe07:69ea");
        let (c6, d6) = ("3ffe:507:0:1:260:97ff:fe07:69ea", "3ffe:507:0:1:200:86ff:fe05:80da");
        for (source, destination, kind, code, want) in [
            (a, b, 8, 0, "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="),
            (b, a, 0, 0, "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="),
            (a, b, 20, 0, "1:3o2RFccXzUgjl7zDpqmY7yJi8rI="),
            (a, b, 20, 1, "1:tz/fHIDUHs19NkixVVoOZywde+I="),
            (b, a, 3, 3, "1:ZouhgnVac3AK62b9tKlLG4N+dVQ="),
            (a6, b6, 135, 0, "1:dGHyGvjMfljg6Bppwm3bg0LO8TY="),
            (b6, a6, 136, 0, "1:dGHyGvjMfljg6Bppwm3bg0LO8TY="),
            (c6, d6, 3, 0, "1:NdobDX8PQNJbAyfkWxhtL2Pqp5w="),
            (d6, c6, 3, 0, "1:/OGBt9BN1ofenrmSPWYicpij2Vc="),
        ] {
            let (key, direction) = icmp(source, destination, kind, code);
            let id = key.community_id(0).expect("it has addresses");
            assert_eq!(std::str::from_utf8(&id), Ok(want), "{source} {destination} {kind} {code}");
            assert_eq!((key.icmp(direction), key.has_ports()), (Some((kind, code)), false));
        }
    }

    #[test]
    fn an_icmp_message_and_its_answer_are_one_flow_and_an_error_is_another() {
        let ((request, there), (reply, back)) = (icmp("10.0.0.9", "10.0.0.1", 8, 0), icmp("10.0.0.1", "10.0.0.9", 0, 0));
        assert_eq!((request, there), (reply, if back == Direction::Forward { Direction::Backward } else { Direction::Forward }));
        let (error, direction) = icmp("10.0.0.9", "10.0.0.1", 3, 3);
        assert_ne!(error, request);
        assert_eq!((direction, error.addr_a().to_string().as_str()), (Direction::Forward, "10.0.0.9"), "the sender comes first");
        assert_ne!(icmp("10.0.0.1", "10.0.0.9", 3, 3).0, error, "an error in the other direction");
    }
}
