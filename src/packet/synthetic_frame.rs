//! Synthetic frames: an Ethernet frame with the addresses, ports, protocol and VLAN of a stream's key, and no payload.
//!
//! Policies match streams against BPF filters when the packets are gone; a filter sees the key through this frame.

use etherparse::{
    EtherType, Ethernet2Header, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, SingleVlanHeader, TcpHeader, UdpHeader, VlanId,
    VlanPcp,
};

use super::address::Family;
use super::key::{Direction, KeyKind, StreamKey};

/// Bytes of the longest transport header here, TCP's. Protocols other than UDP get as many, of zeros.
const TRANSPORT_LEN: usize = TcpHeader::MIN_LEN;
/// Bytes of payload in the shortest Ethernet frame (IEEE 802.3).
const MIN_PAYLOAD: usize = 46;
/// Hops that IP packets may still take, as most senders set them.
const TTL: u8 = 64;

/// The first `N` bytes of an address.
fn narrow<const N: usize>(address: &[u8; 16]) -> [u8; N] {
    *address.first_chunk().expect("N is at most 16")
}

impl StreamKey {
    /// Replaces `frame` with a frame that travels in `direction`. It has a VLAN tag if `tagged` is set and the key has a VLAN.
    ///
    /// The frame of a host key comes from the host, and its destination is all zeros.
    pub fn synthetic_frame(&self, direction: Direction, tagged: bool, frame: &mut Vec<u8>) {
        frame.clear();
        let ends = [(&self.a, self.port_a), (&self.b, self.port_b)];
        let [(src, sport), (dst, dport)] = match direction {
            Direction::Forward => ends,
            Direction::Backward => [ends[1], ends[0]],
        };
        let protocol = IpNumber(self.proto as u8);
        let (mut transport, length) = self.transport_header(protocol, sport, dport);
        if let Some((kind, code)) = self.icmp(direction) {
            transport[..2].copy_from_slice(&[kind, code]);
        }
        match self.family() {
            Family::Ipv4 => {
                self.link_header([0; 6], [0; 6], EtherType::IPV4, tagged, frame);
                let mut ip =
                    Ipv4Header::new(length as u16, TTL, protocol, narrow(src), narrow(dst)).expect("the packet is short");
                ip.dont_fragment = false;
                frame.extend_from_slice(&ip.to_bytes());
            }
            Family::Ipv6 => {
                self.link_header([0; 6], [0; 6], EtherType::IPV6, tagged, frame);
                let ip = Ipv6Header {
                    traffic_class: 0,
                    flow_label: Ipv6FlowLabel::ZERO,
                    payload_length: length as u16,
                    next_header: protocol,
                    hop_limit: TTL,
                    source: *src,
                    destination: *dst,
                };
                frame.extend_from_slice(&ip.to_bytes());
            }
            Family::Mac | Family::None => {
                self.link_header(narrow(src), narrow(dst), EtherType(self.proto), tagged, frame);
                frame.resize(frame.len() + MIN_PAYLOAD, 0);
                return;
            }
        }
        frame.extend_from_slice(&transport[..length]);
    }

    /// Appends the Ethernet header, with the VLAN tags if wanted.
    fn link_header(&self, source: [u8; 6], destination: [u8; 6], next: EtherType, tagged: bool, frame: &mut Vec<u8>) {
        let mut vlans = self.vlans.ids().filter(|_| tagged).filter_map(|id| VlanId::try_new(id).ok()).peekable();
        let ether_type = if vlans.peek().is_some() { EtherType::VLAN_TAGGED_FRAME } else { next };
        frame.extend_from_slice(&Ethernet2Header { source, destination, ether_type }.to_bytes());
        while let Some(vlan_id) = vlans.next() {
            let ether_type = if vlans.peek().is_some() { EtherType::VLAN_TAGGED_FRAME } else { next };
            let tag = SingleVlanHeader { pcp: VlanPcp::ZERO, drop_eligible_indicator: false, vlan_id, ether_type };
            frame.extend_from_slice(&tag.to_bytes());
        }
    }

    /// A transport header of `protocol`, and its length.
    fn transport_header(&self, protocol: IpNumber, source_port: u16, destination_port: u16) -> ([u8; TRANSPORT_LEN], usize) {
        let mut header = [0; TRANSPORT_LEN];
        let length = match (self.kind(), protocol) {
            (KeyKind::Host, _) => 0,
            (KeyKind::Flow, IpNumber::UDP | IpNumber::UDP_LITE) => {
                let udp = UdpHeader { source_port, destination_port, length: UdpHeader::LEN_U16, checksum: 0 };
                header[..UdpHeader::LEN].copy_from_slice(&udp.to_bytes());
                UdpHeader::LEN
            }
            (KeyKind::Flow, IpNumber::TCP) => {
                header.copy_from_slice(&TcpHeader::new(source_port, destination_port, 0, 0).to_bytes());
                TRANSPORT_LEN
            }
            (KeyKind::Flow, IpNumber::SCTP) => {
                header[..2].copy_from_slice(&source_port.to_be_bytes());
                header[2..4].copy_from_slice(&destination_port.to_be_bytes());
                TRANSPORT_LEN
            }
            (KeyKind::Flow, _) => TRANSPORT_LEN,
        };
        (header, length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::{CaptureFile, FrameBatch, LinkType, Source};
    use crate::packet::{Decoder, Network};

    #[test]
    fn a_synthetic_frame_decodes_to_its_stream() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/captures");
        let (mut batch, mut frame, mut checked) = (FrameBatch::new(), Vec::new(), 0);
        for path in std::fs::read_dir(folder).expect("fixtures").flatten() {
            let mut file = CaptureFile::open(&path.path()).expect("a fixture");
            while file.fill(&mut batch).expect("a fixture") {
                for packet in batch.iter() {
                    let Ok(headers) = Decoder::default().decode(packet.link, packet.bytes) else { continue };
                    let (key, direction) = StreamKey::flow(&headers, packet.bytes);
                    // An ARP key's endpoints are the sender and the receiver, and the synthetic frame has no ARP header.
                    if !matches!(headers.network, Network::Ipv4 | Network::Ipv6) {
                        continue;
                    }
                    key.synthetic_frame(direction, true, &mut frame);
                    let headers = Decoder::default().decode(LinkType::ETHERNET, &frame).expect("a whole frame");
                    assert_eq!(StreamKey::flow(&headers, &frame), (key, direction));
                    checked += 1;
                }
            }
        }
        assert!(checked > 8_000, "only {checked} packets checked");
    }
}
