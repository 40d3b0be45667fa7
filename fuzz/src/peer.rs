//! Does etherparse find the same headers? Held where both decoders find a port, on frames that only tags and IP headers lead into.

use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};
use spiked::capture::LinkType;
use spiked::packet::{Decoder, Transport};

/// Where both find a TCP or UDP header it is the same one: protocol, ports.
///
/// Not compared: what only one of them follows (MPLS, PPPoE, many tags) and what the other holds too damaged to go on.
pub fn agrees_with_etherparse(link: LinkType, frame: &[u8]) {
    let packet = match link {
        LinkType::ETHERNET => LaxSlicedPacket::from_ethernet(frame).ok(),
        LinkType::RAW | LinkType::DLT_RAW | LinkType::DLT_RAW_OPENBSD | LinkType::IPV4 | LinkType::IPV6 => {
            LaxSlicedPacket::from_ip(frame).ok()
        }
        _ => None,
    };
    let Some(packet) = packet else { return };
    let theirs = match packet.transport {
        Some(TransportSlice::Tcp(tcp)) => (Transport::Tcp, (tcp.source_port(), tcp.destination_port())),
        Some(TransportSlice::Udp(udp)) => (Transport::Udp, (udp.source_port(), udp.destination_port())),
        _ => return,
    };
    let authenticated = matches!(&packet.net, Some(LaxNetSlice::Ipv4(ip)) if ip.extensions().auth.is_some());
    let Ok(headers) = Decoder::new(false).decode(link, frame) else { return };
    if authenticated || !matches!(headers.transport, Transport::Tcp | Transport::Udp) {
        return;
    }
    assert_eq!((headers.transport, headers.ports(frame)), theirs, "link type {link}, frame {frame:02x?}");
}
