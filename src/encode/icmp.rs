//! IP protocol and ICMP message of a packet, in values that are the same for IPv4 and IPv6.
//!
//! ICMPv6 counts as ICMP. Its echo messages and errors (RFC 4443) have the type and code of the ICMP messages that mean the same (RFC 792,
//! RFC 1812). Other ICMPv6 messages keep their types, 130 and more, which ICMP does not use.

use crate::packet::{Headers, Transport};

/// IP protocol number of ICMP.
const ICMP: u8 = 1;
/// In place of type and code, of packets that are no ICMP message.
const NO_MESSAGE: [u8; 2] = [255; 2];

/// The IP protocol after any IPv6 extension headers, 0 for frames without IP; and the type and the code of the ICMP message.
#[inline]
pub(super) fn protocol_and_message(headers: &Headers, frame: &[u8]) -> (u8, [u8; 2]) {
    let message = || frame.get(usize::from(headers.transport_at)..).and_then(|message| message.first_chunk().copied());
    match headers.transport {
        Transport::Icmp => (ICMP, message().unwrap_or(NO_MESSAGE)),
        Transport::Icmpv6 => (ICMP, message().map_or(NO_MESSAGE, as_icmp)),
        _ => (headers.ip_protocol, NO_MESSAGE),
    }
}

/// Type and code of the ICMP message that means the same as an ICMPv6 message.
fn as_icmp([kind, code]: [u8; 2]) -> [u8; 2] {
    match (kind, code) {
        // Destination unreachable: prohibited, address, port, others.
        (1, 1) => [3, 13],
        (1, 3) => [3, 1],
        (1, 4) => [3, 3],
        (1, _) => [3, 0],
        // Packet too big.
        (2, _) => [3, 4],
        // Time exceeded.
        (3, _) => [11, code],
        // Parameter problem.
        (4, _) => [12, 0],
        // Echo request and reply.
        (128, _) => [8, 0],
        (129, _) => [0, 0],
        _ => [kind, code],
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Context, Layout, LayoutOptions, Volley};
    use crate::capture::LinkType;
    use crate::packet::Decoder;
    use crate::trace::TraceValues;
    use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder, icmpv4, icmpv6};
    use proptest::prelude::*;

    /// What a packet carries over IP.
    #[derive(Clone, Debug)]
    enum Carried {
        Syn(u16, u16),
        Udp(u16, u16),
        EchoRequest,
        EchoReply,
        PortUnreachable,
    }

    /// An Ethernet frame with it over IPv4 or IPv6.
    fn frame(ipv6: bool, carried: &Carried, payload: &[u8]) -> Vec<u8> {
        let link = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let ip = if ipv6 { link.ipv6([1; 16], [2; 16], 64) } else { link.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64) };
        let echo = etherparse::IcmpEchoHeader { id: 1, seq: 2 };
        let mut frame = Vec::new();
        match *carried {
            Carried::Syn(source, target) => ip.tcp(source, target, 1, 1024).syn().write(&mut frame, payload),
            Carried::Udp(source, target) => ip.udp(source, target).write(&mut frame, payload),
            Carried::EchoRequest if ipv6 => ip.icmpv6(Icmpv6Type::EchoRequest(echo)).write(&mut frame, payload),
            Carried::EchoRequest => ip.icmpv4(Icmpv4Type::EchoRequest(echo)).write(&mut frame, payload),
            Carried::EchoReply if ipv6 => ip.icmpv6(Icmpv6Type::EchoReply(echo)).write(&mut frame, payload),
            Carried::EchoReply => ip.icmpv4(Icmpv4Type::EchoReply(echo)).write(&mut frame, payload),
            Carried::PortUnreachable if ipv6 => {
                let code = icmpv6::DestUnreachableCode::Port;
                ip.icmpv6(Icmpv6Type::DestinationUnreachable(code)).write(&mut frame, payload)
            }
            Carried::PortUnreachable => {
                let code = icmpv4::DestUnreachableHeader::Port;
                ip.icmpv4(Icmpv4Type::DestinationUnreachable(code)).write(&mut frame, payload)
            }
        }
        .expect("a vector takes all bytes");
        frame
    }

    fn carried() -> impl Strategy<Value = Carried> {
        prop_oneof![
            any::<(u16, u16)>().prop_map(|(source, target)| Carried::Syn(source, target)),
            any::<(u16, u16)>().prop_map(|(source, target)| Carried::Udp(source, target)),
            Just(Carried::EchoRequest),
            Just(Carried::EchoReply),
            Just(Carried::PortUnreachable),
        ]
    }

    proptest! {
        #[test]
        fn with_traces_packets_have_the_same_values_over_ipv4_and_ipv6(
            carried in carried(), payload in prop::collection::vec(any::<u8>(), 0..60), direction in 0u8..2, position: u8,
        ) {
            let layout = Layout::headers(&LayoutOptions { traces: true, ..LayoutOptions::default() });
            let volley = |ipv6: bool| {
                let frame = frame(ipv6, &carried, &payload);
                let headers = Decoder::default().decode(LinkType::ETHERNET, &frame).expect("a whole packet");
                let mut volley = Volley::default();
                let context = Context { position, ..Context::first(direction) };
                layout.encode(&headers, &frame, context, &TraceValues::NONE, &mut volley);
                volley.slots
            };
            prop_assert_eq!(volley(false), volley(true));
        }
    }
}
