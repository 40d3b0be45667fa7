//! What would a stream's first packet look like to a filter? An Ethernet frame made of what the key says, without any payload.
//!
//! Policies judge streams by BPF expressions when their packets are gone: addresses, ports, protocol and VLAN are all there is.

use super::key::Family;
use super::{Direction, KeyKind, NO_VLAN, StreamKey};

/// Octets of the longest header here, SCTP's and TCP's.
const TRANSPORT: usize = 20;

impl StreamKey {
    /// Writes the frame that goes in `direction`, with the VLAN's tag where `tagged` and there is one.
    ///
    /// A host's frame comes from it and goes to nobody (all zero).
    pub fn specimen(&self, direction: Direction, tagged: bool, frame: &mut Vec<u8>) {
        frame.clear();
        let ends = [(&self.a, self.port_a), (&self.b, self.port_b)];
        let [(src, sport), (dst, dport)] = match direction {
            Direction::Forward => ends,
            Direction::Backward => [ends[1], ends[0]],
        };
        let (src_mac, dst_mac) = match self.family {
            Family::Mac => (&src[..6], &dst[..6]),
            _ => (&[0; 6][..], &[0; 6][..]),
        };
        frame.extend_from_slice(dst_mac);
        frame.extend_from_slice(src_mac);
        if tagged && self.vlan != NO_VLAN {
            frame.extend_from_slice(&[0x81, 0]);
            frame.extend_from_slice(&self.vlan.to_be_bytes());
        }
        let transport = match (self.kind(), self.proto) {
            (KeyKind::Host, _) => 0,
            (KeyKind::Flow, 17) => 8,
            (KeyKind::Flow, _) => TRANSPORT,
        };
        match self.family {
            Family::Ipv4 => {
                frame.extend_from_slice(&[0x08, 0x00, 0x45, 0]);
                frame.extend_from_slice(&(20 + transport as u16).to_be_bytes());
                frame.extend_from_slice(&[0, 0, 0, 0, 64, self.proto as u8, 0, 0]);
                frame.extend_from_slice(&src[..4]);
                frame.extend_from_slice(&dst[..4]);
            }
            Family::Ipv6 => {
                frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend_from_slice(&(transport as u16).to_be_bytes());
                frame.extend_from_slice(&[self.proto as u8, 64]);
                frame.extend_from_slice(src);
                frame.extend_from_slice(dst);
            }
            Family::Mac | Family::None => {
                frame.extend_from_slice(&self.proto.to_be_bytes());
                frame.resize(frame.len() + 46, 0);
                return;
            }
        }
        let at = frame.len();
        frame.resize(at + transport, 0);
        if self.has_ports() && transport > 0 {
            frame[at..at + 2].copy_from_slice(&sport.to_be_bytes());
            frame[at + 2..at + 4].copy_from_slice(&dport.to_be_bytes());
        }
        match self.proto {
            6 if transport > 0 => frame[at + 12] = 0x50,
            17 if transport > 0 => frame[at + 5] = 8,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::{CaptureFile, FrameBatch, Source};
    use crate::packet::{Decoder, Network};

    #[test]
    fn a_specimen_decodes_to_its_stream() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/captures");
        let (mut batch, mut frame, mut checked) = (FrameBatch::new(), Vec::new(), 0);
        for path in std::fs::read_dir(folder).expect("fixtures").flatten() {
            let mut file = CaptureFile::open(&path.path()).expect("a fixture");
            while file.fill(&mut batch).expect("a fixture") {
                for packet in batch.iter() {
                    let Ok(headers) = Decoder::default().decode(packet.link.0, packet.bytes) else { continue };
                    let (key, direction) = StreamKey::flow(&headers, packet.bytes);
                    // ARP is keyed by who speaks, and a specimen has no ARP header to say more.
                    if !matches!(headers.network, Network::Ipv4 | Network::Ipv6) {
                        continue;
                    }
                    key.specimen(direction, true, &mut frame);
                    let headers = Decoder::default().decode(1, &frame).expect("a whole frame");
                    assert_eq!(StreamKey::flow(&headers, &frame), (key, direction));
                    checked += 1;
                }
            }
        }
        assert!(checked > 8_000, "only {checked} packets checked");
    }
}
