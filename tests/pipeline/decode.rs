//! Tests of the decoder: it agrees with etherparse on every capture at hand, and never panics whatever the bytes.

use std::path::{Path, PathBuf};

use crate::common::{fixture, shared_data, udp};
use etherparse::{IpNumber, LaxNetSlice, LaxSlicedPacket, TransportSlice};
use proptest::prelude::*;
use spiked::capture::{CaptureFile, FrameBatch, LinkType, Source};
use spiked::packet::{Decoder, Headers, KeyKind, Network, StreamKey, Transport, VlanTags};

const CLOSED: Decoder = Decoder::new(false);

/// What both decoders find in a frame: IP version, protocol, transport protocol, ports.
type Found = (u8, u8, &'static str, (u16, u16));

fn ours(headers: &Headers, frame: &[u8]) -> Found {
    let version = match headers.network {
        Network::Ipv4 => 4,
        Network::Ipv6 => 6,
        _ => 0,
    };
    let transport = match headers.transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
        Transport::Icmp => "icmp",
        Transport::Icmpv6 => "icmpv6",
        Transport::Igmp => "igmp",
        _ => "",
    };
    let ports = if matches!(transport, "tcp" | "udp") { headers.ports(frame) } else { (0, 0) };
    (version, headers.ip_protocol, transport, ports)
}

fn theirs(link: LinkType, frame: &[u8]) -> Option<Found> {
    let packet = match link {
        LinkType::ETHERNET => LaxSlicedPacket::from_ethernet(frame).ok()?,
        LinkType::RAW | LinkType::DLT_RAW | LinkType::DLT_RAW_OPENBSD | LinkType::IPV4 | LinkType::IPV6 => {
            LaxSlicedPacket::from_ip(frame).ok()?
        }
        _ => return None,
    };
    let (version, protocol) = match packet.net.as_ref()? {
        LaxNetSlice::Ipv4(ip) => (4, ip.payload().ip_number.0),
        LaxNetSlice::Ipv6(ip) => (6, ip.payload().ip_number.0),
        LaxNetSlice::Arp(_) => return Some((0, 0, "", (0, 0))),
    };
    let (transport, ports) = match packet.transport {
        Some(TransportSlice::Tcp(tcp)) => ("tcp", (tcp.source_port(), tcp.destination_port())),
        Some(TransportSlice::Udp(udp)) => ("udp", (udp.source_port(), udp.destination_port())),
        Some(TransportSlice::Icmpv4(_)) => ("icmp", (0, 0)),
        Some(TransportSlice::Icmpv6(_)) => ("icmpv6", (0, 0)),
        Some(TransportSlice::Igmp(_)) => ("igmp", (0, 0)),
        None => ("", (0, 0)),
    };
    Some((version, protocol, transport, ports))
}

fn captures(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder of captures").map(|e| e.expect("an entry").path()) {
        if entry.is_dir() { captures(&entry, found) } else { found.push(entry) }
    }
}

/// Known differences, on which both decoders are right in their way:
/// - if an IPv4 packet has an authentication header, that is its protocol here (as in labels and flow exporters);
/// - a chain of IPv6 extension headers that is malformed, or has a mobility header (RFC 6275), ends at another header;
/// - an IP header that claims more than there is, is not decoded here.
fn explained(ours: Found, theirs: Found) -> bool {
    const CHAIN: [IpNumber; 6] = [
        IpNumber::IPV6_ROUTE_HEADER,
        IpNumber::IPV6_FRAGMENTATION_HEADER,
        IpNumber::AUTHENTICATION_HEADER,
        IpNumber::IPV6_NO_NEXT_HEADER,
        IpNumber::IPV6_DESTINATION_OPTIONS,
        IpNumber::MOBILITY_HEADER,
    ];
    let chain = ours.0 == theirs.0 && [ours.1, theirs.1].iter().any(|&protocol| CHAIN.contains(&IpNumber(protocol)));
    chain || (ours.0 == 0 && theirs.3 == (0, 0))
}

/// Most frames of a capture that are compared.
const MOST: usize = 5_000;

/// Compares all frames below `folder`; returns how many, and a line for each difference.
fn compare(folder: &Path) -> (usize, Vec<String>) {
    let (mut files, mut compared, mut differences) = (Vec::new(), 0, Vec::new());
    captures(folder, &mut files);
    files.sort();
    let mut batch = FrameBatch::new();
    for path in files {
        let Ok(mut source) = CaptureFile::open(&path) else { continue };
        let mut number = 0;
        while number < MOST && source.fill(&mut batch).expect("what was opened can be read") {
            for frame in batch.iter() {
                number += 1;
                let Some(want) = theirs(frame.link, frame.bytes) else { continue };
                let got = CLOSED.decode(frame.link, frame.bytes).ok();
                let found = got.map(|h| ours(&h, frame.bytes));
                compared += 1;
                // Of a truncated transport header, etherparse returns nothing; here its offset and remainder count.
                let truncated = want.2.is_empty() && found.is_some_and(|f| (f.0, f.1) == (want.0, want.1));
                if found != Some(want) && !truncated && !found.is_some_and(|found| explained(found, want)) {
                    differences.push(format!("{} packet {number}: {found:?}, etherparse finds {want:?}", path.display()));
                }
            }
        }
    }
    (compared, differences)
}

#[test]
fn fixtures_decode_as_etherparse_decodes_them() {
    let (compared, differences) = compare(&fixture("captures"));
    assert!(compared > 3_000);
    assert!(differences.is_empty(), "{differences:#?}");
}

#[test]
fn shared_captures_decode_as_etherparse_decodes_them() {
    let Some(data) = shared_data() else { return };
    let (compared, differences) = compare(&data);
    println!("{compared} frames compared");
    assert!(compared > 200_000);
    assert!(differences.is_empty(), "{differences:#?}");
}

/// Asserts what decoding guarantees whatever the bytes.
fn sound(link: LinkType, frame: &[u8]) {
    for open_tunnels in [false, true] {
        let Ok(headers) = Decoder::new(open_tunnels).decode(link, frame) else { continue };
        assert!(headers.payload_at as usize <= frame.len() || headers.payload(frame).is_empty());
        for kind in [KeyKind::Flow, KeyKind::Host] {
            for (key, _) in StreamKey::of(kind, &headers, frame).into_iter().flatten() {
                let _ = (key.addr_a(), key.addr_b(), key.proto_name(), key.community_id(0), key.flow_id(0));
            }
        }
        assert!(headers.payload(frame).len() <= frame.len());
    }
}

/// Every link type, decoded or not: the numbers of the registry end below.
const LINKS: u16 = 300;

proptest! {
    #[test]
    fn any_bytes_are_decoded_or_refused(link in 0..LINKS, frame in prop::collection::vec(any::<u8>(), 0..200)) {
        sound(LinkType(link), &frame);
    }

    #[test]
    fn damaged_frames_are_decoded_or_refused(at in 0usize..60, value: u8, length in 0usize..70) {
        let mut frame = udp([10, 0, 0, 1], 5353, [224, 0, 0, 251], 4789, &[8; 40]);
        frame[at] = value;
        frame.truncate(length);
        (0..LINKS).for_each(|link| sound(LinkType(link), &frame));
    }
}

fn decode(link: LinkType, frame: &[u8]) -> Headers {
    Decoder::default().decode(link, frame).expect("a frame with its link header")
}

fn flow(link: LinkType, frame: &[u8]) -> String {
    let (key, _) = StreamKey::flow(&decode(link, frame), frame);
    format!(
        "{} {}:{} {}:{} {:?}",
        key.proto_name(),
        key.addr_a(),
        key.port_a(),
        key.addr_b(),
        key.port_b(),
        key.vlans().ids().collect::<Vec<_>>()
    )
}

const WANT: &str = "UDP 10.0.0.1:1000 10.0.0.2:53 []";

fn plain() -> Vec<u8> {
    udp([10, 0, 0, 1], 1000, [10, 0, 0, 2], 53, b"payload")
}

#[test]
fn both_directions_are_one_flow() {
    let back = udp([10, 0, 0, 2], 53, [10, 0, 0, 1], 1000, b"answer");
    assert_eq!(flow(LinkType::ETHERNET, &plain()), WANT);
    assert_eq!(flow(LinkType::ETHERNET, &back), WANT);
}

#[test]
fn link_headers_and_tags_lead_to_the_same_packet() {
    let frame = plain();
    let (macs, ip) = (&frame[..12], &frame[14..]);
    let with = |tags: &[u8]| [macs, tags, ip].concat();
    assert_eq!(flow(LinkType::ETHERNET, &with(&[0x81, 0, 0, 7, 8, 0])), WANT.replace("[]", "[7]"));
    assert_eq!(flow(LinkType::ETHERNET, &with(&[0x88, 0xa8, 0, 5, 0x81, 0, 0, 7, 8, 0])), WANT.replace("[]", "[5, 7]"), "QinQ");
    assert_eq!(flow(LinkType::ETHERNET, &with(&[0x88, 0x47, 0, 1, 0x00, 64, 0, 2, 0x11, 64])), WANT, "two MPLS labels");
    let length = (ip.len() + 2) as u8;
    assert_eq!(flow(LinkType::ETHERNET, &with(&[0x88, 0x64, 0x11, 0, 0, 1, 0, length, 0, 0x21])), WANT, "PPPoE");
    assert_eq!(flow(LinkType::RAW, ip), WANT, "raw IP");
    assert_eq!(flow(LinkType::NULL, &[&[2, 0, 0, 0], ip].concat()), WANT, "loopback");
    assert_eq!(flow(LinkType::LINUX_SLL, &[&[0, 0, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0, 8, 0], ip].concat()), WANT, "cooked v1");
    let second = [8, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0];
    assert_eq!(flow(LinkType::LINUX_SLL2, &[&second, ip].concat()), WANT, "cooked v2");
    assert_eq!(decode(LinkType::ETHERNET, &frame).vlans, VlanTags::NONE);
}

#[test]
fn a_tunnel_is_opened_unless_disabled() {
    let inner = plain();
    let vxlan = udp([1, 1, 1, 1], 9999, [2, 2, 2, 2], 4789, &[&[8, 0, 0, 0, 0, 0, 1, 0][..], &inner].concat());
    let around = |protocol: IpNumber, header: &[u8]| {
        let mut frame = Vec::new();
        let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([1, 1, 1, 1], [2, 2, 2, 2], 64);
        builder.write(&mut frame, protocol, &[header, &inner[14..]].concat()).unwrap();
        frame
    };
    for frame in [vxlan, around(IpNumber::GRE, &[0, 0, 8, 0]), around(IpNumber::IPV4, &[])] {
        assert_eq!(flow(LinkType::ETHERNET, &frame), WANT);
        let (outer, _) = StreamKey::flow(&CLOSED.decode(LinkType::ETHERNET, &frame).unwrap(), &frame);
        assert_eq!((outer.addr_a().to_string(), outer.addr_b().to_string()), ("1.1.1.1".into(), "2.2.2.2".into()));
    }
}

#[test]
fn a_tunnel_is_opened_in_the_first_fragment_of_its_datagram() {
    let vxlan = udp([1, 1, 1, 1], 9999, [2, 2, 2, 2], 4789, &[&[8, 0, 0, 0, 0, 0, 1, 0][..], &plain(), &[7; 40]].concat());
    let mut fragment = vxlan[..vxlan.len() - 40].to_vec();
    // The inner packet goes on in the next fragment.
    let inner_length = 14 + 20 + 8 + 8 + 14 + 2;
    fragment[inner_length..inner_length + 2].copy_from_slice(&60_u16.to_be_bytes());
    let total = (fragment.len() - 14) as u16;
    fragment[16..18].copy_from_slice(&total.to_be_bytes());
    fragment[20] = 0x20;
    assert_eq!(flow(LinkType::ETHERNET, &fragment), WANT);
    // A datagram that is whole has no room for it.
    let datagram = (fragment.len() - 34) as u16;
    fragment[38..40].copy_from_slice(&datagram.to_be_bytes());
    assert!(flow(LinkType::ETHERNET, &fragment).contains("4789"));
}

/// Cisco's access points swap the bytes of frame control and sequence control: a sequence number of 17 is no fragment number of 1.
#[test]
fn swapped_80211_in_capwap_is_opened_whatever_its_sequence_number() {
    let header = [1, 8, 44, 0, 2, 2, 2, 2, 2, 2, 4, 4, 4, 4, 4, 4, 255, 255, 255, 255, 255, 255, 1, 0x10];
    let capwap = [0, 2 << 3, 0x43, 0x20, 0, 0, 0, 0];
    let payload = [&capwap[..], &header, &[0xaa, 0xaa, 3, 0, 0, 0, 8, 0], &plain()[14..]].concat();
    let mut frame = udp([1, 1, 1, 1], 9999, [2, 2, 2, 2], 5247, &payload);
    assert_eq!(flow(LinkType::ETHERNET, &frame), WANT);
    // A later fragment.
    frame[42 + 8 + 23] = 0x11;
    assert!(flow(LinkType::ETHERNET, &frame).contains("5247"));
}

#[test]
fn a_later_fragment_has_no_ports_and_extension_headers_are_skipped() {
    let mut frame = plain();
    frame[20] = 0;
    frame[21] = 10;
    assert_eq!(flow(LinkType::ETHERNET, &frame), "UDP 10.0.0.1:0 10.0.0.2:0 []");
    let mut extended = vec![0x60, 0, 0, 0, 0, 16, 0, 64];
    extended.extend([0xfd; 16]);
    extended.extend([0xfe; 16]);
    extended.extend([17, 0, 0, 0, 0, 0, 0, 0, 3, 232, 0, 53, 0, 8, 0, 0]);
    assert!(flow(LinkType::RAW, &extended).starts_with("UDP fdfd"), "{}", flow(LinkType::RAW, &extended));
    assert!(flow(LinkType::RAW, &extended).contains(":1000 "));
}

/// Found by the fuzz target `decoder`: the offset of the network header was past the end of the frame, and the key was read there.
#[test]
fn frames_truncated_within_a_label_or_a_tunnel_still_belong_to_a_stream() {
    let label = [&[2; 12][..], &[0x88, 0x47, 0, 1, 1]].concat();
    sound(LinkType::ETHERNET, &label);
    assert!(flow(LinkType::ETHERNET, &label).contains("02:02:02:02:02:02"));
    // GRE with all optional fields, truncated after its protocol: ARP.
    let mut tunnel = Vec::new();
    let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([1, 1, 1, 1], [2, 2, 2, 2], 64);
    builder.write(&mut tunnel, IpNumber::GRE, &[0xb0, 0, 8, 6]).unwrap();
    sound(LinkType::ETHERNET, &tunnel);
    assert!(flow(LinkType::ETHERNET, &tunnel).contains("02:02:02:02:02:02"));
}
