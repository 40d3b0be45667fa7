//! Tests of wrappings, link types and file formats: generated frames, one a kind, and the endpoints of the innermost packet.

use std::io::Write as _;

use lz4_flex::frame::{BlockSize, FrameEncoder, FrameInfo};

use crate::common::{pcap, udp};
use spiked::capture::{CaptureFile, FrameBatch, LinkType, Source};
use spiked::packet::{Decoder, Direction, Headers, StreamKey, Tunnel, Undecodable, VlanTags};

const SOURCE: [u8; 4] = [192, 0, 2, 10];
const DESTINATION: [u8; 4] = [198, 51, 100, 20];
const OUTER: [[u8; 4]; 2] = [[203, 0, 113, 1], [203, 0, 113, 2]];
const MACS: [u8; 12] = [0, 0, 0x5e, 0, 0x53, 2, 0, 0, 0x5e, 0, 0x53, 1];
const WANT: &str = "UDP 192.0.2.10:40000 198.51.100.20:53";

/// The innermost packet as an Ethernet frame, and as IP.
fn inner() -> (Vec<u8>, Vec<u8>) {
    let frame = [&MACS[..], &udp(SOURCE, 40000, DESTINATION, 53, b"a query")[12..]].concat();
    let ip = frame[14..].to_vec();
    (frame, ip)
}

/// The innermost packet as IPv6.
fn inner6() -> Vec<u8> {
    let mut packet = Vec::new();
    let [source, destination] = [0xa, 0xb].map(|host| [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]);
    etherparse::PacketBuilder::ipv6(source, destination, 64).udp(41000, 53).write(&mut packet, b"a query").unwrap();
    packet
}

fn ether(ether_type: u16, parts: &[&[u8]]) -> Vec<u8> {
    [&MACS[..], &ether_type.to_be_bytes(), &parts.concat()].concat()
}

/// A packet of this IP protocol between tunnel endpoints.
fn over_ip(protocol: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(OUTER[0], OUTER[1], 64);
    builder.write(&mut frame, etherparse::IpNumber(protocol), &parts.concat()).unwrap();
    frame
}

fn over_udp(ports: [u16; 2], parts: &[&[u8]]) -> Vec<u8> {
    udp(OUTER[0], ports[0], OUTER[1], ports[1], &parts.concat())
}

/// Protocol and endpoints of the flow of a frame's innermost packet, the sender first.
fn flow(decoder: &Decoder, link: LinkType, frame: &[u8]) -> Result<String, Undecodable> {
    Ok(flow_of(&decoder.decode(link, frame)?, frame))
}

fn flow_of(headers: &Headers, frame: &[u8]) -> String {
    let (key, direction) = StreamKey::flow(headers, frame);
    let ends = [(key.addr_a(), key.port_a()), (key.addr_b(), key.port_b())];
    let [(from, sport), (to, dport)] = if direction == Direction::Forward { ends } else { [ends[1], ends[0]] };
    format!("{} {from}:{sport} {to}:{dport}", key.proto_name())
}

/// Asserts that a frame leads to the innermost packet, and that nothing breaks when it is truncated or bytes change.
fn leads(name: &str, link: LinkType, frame: &[u8], want: &str) {
    let decoder = Decoder::default();
    assert_eq!(flow(&decoder, link, frame).as_deref(), Ok(want), "{name}");
    for length in 0..frame.len() {
        let _ = flow(&decoder, link, &frame[..length]);
        for value in [0, 0x7f, 0xff] {
            let mut damaged = frame.to_vec();
            damaged[length] = value;
            let _ = flow(&decoder, link, &damaged);
        }
    }
}

#[test]
fn tunnels_over_ip_are_opened() {
    let (frame, ip) = inner();
    let route = [0x08, 0, 0, 4, 1, 2, 3, 4, 0, 0, 0, 0];
    let cases: [(&str, Tunnel, Vec<u8>); 13] = [
        ("GRE", Tunnel::Gre, over_ip(47, &[&[0, 0, 8, 0], &ip])),
        ("GRE with all optional fields", Tunnel::Gre, over_ip(47, &[&[0xb0, 0, 8, 0], &[0; 12], &ip])),
        ("GRE with a route", Tunnel::Gre, over_ip(47, &[&[0x40, 0, 8, 0], &[0; 4], &route, &ip])),
        ("NVGRE", Tunnel::Gre, over_ip(47, &[&[0x20, 0, 0x65, 0x58, 0, 0, 1, 0], &frame])),
        ("PPTP", Tunnel::Pptp, over_ip(47, &[&[0x30, 1, 0x88, 0x0b, 0, 40, 0, 1, 0, 0, 0, 1, 0xff, 3, 0, 0x21], &ip])),
        (
            "PPTP with acknowledgement",
            Tunnel::Pptp,
            over_ip(47, &[&[0x30, 0x81, 0x88, 0x0b, 0, 40, 0, 1], &[0; 8], &[0x21], &ip]),
        ),
        ("ERSPAN I", Tunnel::Erspan, over_ip(47, &[&[0, 0, 0x88, 0xbe], &frame])),
        ("ERSPAN II", Tunnel::Erspan, over_ip(47, &[&[0x10, 0, 0x88, 0xbe, 0, 0, 0, 1, 0x10, 0, 0, 1, 0, 0, 0, 0], &frame])),
        ("ERSPAN III", Tunnel::Erspan, over_ip(47, &[&[0x10, 0, 0x22, 0xeb, 0, 0, 0, 1, 0x20], &[0; 10], &[1], &[0; 8], &frame])),
        ("WCCP", Tunnel::Wccp, over_ip(47, &[&[0, 0, 0x88, 0x3e], &ip])),
        ("WCCP, version 2", Tunnel::Wccp, over_ip(47, &[&[0, 0, 0x88, 0x3e, 0, 0x50, 0, 1], &ip])),
        ("EtherIP", Tunnel::EtherIp, over_ip(97, &[&[0x30, 0], &frame])),
        ("MPLS in IP", Tunnel::MplsInIp, over_ip(137, &[&[0, 1, 1, 64], &ip])),
    ];
    for (name, tunnel, packet) in cases {
        leads(name, LinkType::ETHERNET, &packet, WANT);
        assert_eq!(Decoder::default().decode(LinkType::ETHERNET, &packet).unwrap().tunnels[0], tunnel, "{name}");
        assert!(flow(&Decoder::new(false), LinkType::ETHERNET, &packet).unwrap().contains("203.0.113.1"), "{name}");
    }
    leads("6in4", LinkType::ETHERNET, &over_ip(41, &[&inner6()]), "UDP 2001:db8::a:41000 2001:db8::b:53");
}

#[test]
fn tunnels_over_udp_are_opened() {
    let (frame, ip) = inner();
    let wifi = [&[8, 1, 0, 0][..], &MACS, &[1; 6], &[0x10, 0, 0xaa, 0xaa, 3, 0, 0, 0, 8, 0], &ip].concat();
    let gtp = |flags: u8, more: &[u8]| {
        let [high, low] = ((more.len() + ip.len()) as u16).to_be_bytes();
        over_udp([2152, 2152], &[&[flags, 255, high, low, 0, 0, 0x0a, 0xbc], more, &ip])
    };
    let cases: [(&str, Tunnel, Vec<u8>); 16] = [
        ("VXLAN", Tunnel::Vxlan, over_udp([50000, 4789], &[&[8, 0, 0, 0, 0, 0, 1, 0], &frame])),
        ("VXLAN on Linux's port", Tunnel::Vxlan, over_udp([50000, 8472], &[&[8, 0, 0, 0, 0, 0, 1, 0], &frame])),
        ("VXLAN-GPE", Tunnel::Vxlan, over_udp([50000, 4790], &[&[0x0c, 0, 0, 1, 0, 0, 1, 0], &ip])),
        (
            "VXLAN-GPE with NSH",
            Tunnel::Vxlan,
            over_udp([50000, 4790], &[&[0x0c, 0, 0, 4, 0, 0, 1, 0], &[0, 2, 2, 3], &[0; 4], &frame]),
        ),
        ("Geneve", Tunnel::Geneve, over_udp([50000, 6081], &[&[0, 0, 0x65, 0x58, 0, 0, 1, 0], &frame])),
        ("Geneve with options", Tunnel::Geneve, over_udp([50000, 6081], &[&[2, 0, 8, 0, 0, 0, 1, 0], &[0; 8], &ip])),
        ("LISP", Tunnel::Lisp, over_udp([50000, 4341], &[&[0; 8], &ip])),
        ("MPLS over UDP", Tunnel::MplsInIp, over_udp([50000, 6635], &[&[0, 1, 1, 64], &ip])),
        ("GTP-U", Tunnel::Gtp, gtp(0x30, &[])),
        ("GTP-U with extension headers", Tunnel::Gtp, gtp(0x34, &[0, 0, 0, 0x85, 1, 0, 9, 0xc0, 1, 0, 0, 0])),
        ("L2TP", Tunnel::L2tp, over_udp([1701, 1701], &[&[0, 2, 0, 1, 0, 1, 0xff, 3, 0, 0x21], &ip])),
        (
            "L2TP with all fields",
            Tunnel::L2tp,
            over_udp([40000, 1701], &[&[0x4a, 2, 0, 60, 0, 1, 0, 1, 0, 0, 0, 0, 0, 2, 9, 9, 0, 0x21], &ip]),
        ),
        ("CAPWAP", Tunnel::Capwap, over_udp([40000, 5247], &[&[0, 0x10, 2, 0, 0, 0, 0, 0], &frame])),
        ("CAPWAP with 802.11", Tunnel::Capwap, over_udp([5247, 40000], &[&[0, 0x10, 3, 0, 0, 0, 0, 0], &wifi])),
        ("TZSP", Tunnel::Tzsp, over_udp([40000, 37008], &[&[1, 0, 0, 1, 0, 10, 1, 5, 1], &frame])),
        ("TZSP with 802.11", Tunnel::Tzsp, over_udp([40000, 37008], &[&[1, 0, 0, 18, 1], &wifi])),
    ];
    for (name, tunnel, packet) in cases {
        leads(name, LinkType::ETHERNET, &packet, WANT);
        assert_eq!(Decoder::default().decode(LinkType::ETHERNET, &packet).unwrap().tunnels[0], tunnel, "{name}");
    }
    for indicators in [&[][..], &[0, 0, 0, 0, 0, 0, 0, 0], &[&[0, 1, 0, 0][..], &[0; 9]].concat()] {
        let packet = over_udp([3545, 3544], &[indicators, &inner6()]);
        leads("Teredo", LinkType::ETHERNET, &packet, "UDP 2001:db8::a:41000 2001:db8::b:53");
    }
    // A client's port that happens to be a tunnel's.
    let resolver = over_udp([2152, 53], &[&[0x30, 255, 0, 40, 0, 0, 0, 0], b"E no packet that fits here, and long enough"]);
    assert!(flow(&Decoder::default(), LinkType::ETHERNET, &resolver).unwrap().contains(":2152"));
}

#[test]
fn tags_and_frames_within_frames_are_opened() {
    let (frame, ip) = inner();
    let ip6 = inner6();
    let snap = [0xaa, 0xaa, 3, 0, 0, 0, 8, 0];
    for (name, packet) in [
        ("LLC and SNAP", ether((8 + ip.len()) as u16, &[&snap, &ip])),
        ("VLAN 0x9200", ether(0x9200, &[&[0, 5, 8, 0], &ip])),
        ("Cisco metadata", ether(0x8909, &[&[1, 1, 0, 1, 0, 9, 8, 0], &ip])),
        ("MACsec", ether(0x88e5, &[&[0x20, 0, 0, 0, 0, 1], &[0; 8], &[8, 0], &ip, &[0; 16]])),
        ("HSR", ether(0x892f, &[&[0, 60, 0, 1, 8, 0], &ip])),
        ("VN-Tag", ether(0x8926, &[&[0, 1, 0, 2, 8, 0], &ip])),
        ("802.1ah", ether(0x88a8, &[&[0, 9, 0x88, 0xe7, 0, 0, 0, 77], &frame])),
        ("NSH", ether(0x894f, &[&[0, 2, 2, 1, 0, 0, 0, 0], &ip])),
        ("Ethernet bridging", ether(0x6558, &[&frame])),
        ("pseudowire", ether(0x8847, &[&[0, 1, 1, 64], &frame])),
        ("pseudowire with control word", ether(0x8847, &[&[0, 1, 1, 64], &[0; 4], &frame])),
        ("PPPoE with compressed protocol", ether(0x8864, &[&[0x11, 0, 0, 7, 0, 40, 0x21], &ip])),
    ] {
        leads(name, LinkType::ETHERNET, &packet, WANT);
    }
    leads(
        "IPv6 over LLC",
        LinkType::ETHERNET,
        &ether(64, &[&[0xaa, 0xaa, 3, 0, 0, 0, 0x86, 0xdd], &ip6]),
        "UDP 2001:db8::a:41000 2001:db8::b:53",
    );
    // Priority tags name no VLAN.
    let vlan = |tag: u8| Decoder::default().decode(LinkType::ETHERNET, &ether(0x8100, &[&[0xa0, tag, 8, 0], &ip])).unwrap().vlans;
    assert_eq!((vlan(0), vlan(7)), (VlanTags::NONE, VlanTags::NONE.with(7)));
    let lite = ether(0x0800, &[&ip[..9], &[136], &ip[10..]]);
    leads("UDP-Lite", LinkType::ETHERNET, &lite, &WANT.replace("UDP", "UDP-Lite"));
}

#[test]
fn the_ip_packets_around_a_tunnel_have_headers_of_their_own() {
    let (frame, _) = inner();
    let vxlan = |frame: &[u8]| over_udp([50000, 4789], &[&[8, 0, 0, 0, 0, 0, 1, 0], frame]);
    let [gre, udp] = ["GRE 203.0.113.1:0 203.0.113.2:0", "UDP 203.0.113.1:50000 203.0.113.2:4789"];
    let (decoder, bridged) = (Decoder::default(), ether(0x6558, &[&frame]));
    for (name, packet, flows) in [
        ("no tunnel", frame.clone(), vec![WANT]),
        ("VXLAN", vxlan(&frame), vec![udp, WANT]),
        ("VXLAN in GRE", over_ip(47, &[&[0, 0, 8, 0], &vxlan(&frame)[14..]]), vec![gre, udp, WANT]),
        ("a tunnel in no IP packet", bridged.clone(), vec![WANT]),
        ("such a tunnel in VXLAN", vxlan(&bridged), vec![udp, WANT]),
        ("VXLAN in such a tunnel", ether(0x6558, &[&vxlan(&frame)]), vec![udp, WANT]),
    ] {
        let all = decoder.decode_all(LinkType::ETHERNET, &packet);
        assert_eq!(all.map(|headers| flow_of(&headers, &packet)).collect::<Vec<_>>(), flows, "{name}");
    }
    assert_eq!(decoder.decode_all(LinkType::ETHERNET, &[0; 4]).count(), 0);
}

#[test]
fn tunnels_are_opened_to_a_depth_of_four() {
    let (_, ip) = inner();
    let nested = (0..6).scan(ip, |packet, _| {
        let outer = over_ip(4, &[packet]);
        *packet = outer[14..].to_vec();
        Some(outer)
    });
    for (depth, packet) in (1..).zip(nested) {
        let found = flow(&Decoder::default(), LinkType::ETHERNET, &packet).unwrap();
        assert_eq!(found == WANT, depth <= 4, "{depth}: {found}");
        assert_eq!(Decoder::default().decode(LinkType::ETHERNET, &packet).unwrap().tunnel_depth, depth.min(4));
    }
    let (frame, _) = inner();
    let vxlan = over_udp([50000, 4789], &[&[8, 0, 0, 0, 0, 0, 1, 0], &frame]);
    leads("VXLAN in GRE", LinkType::ETHERNET, &over_ip(47, &[&[0, 0, 8, 0], &vxlan[14..]]), WANT);
}

/// Frames of link types of local networks and their metadata.
fn local_links() -> Vec<(u16, Vec<u8>)> {
    let (frame, ip) = inner();
    let snap = [&[0xaa, 0xaa, 3, 0, 0, 0, 8, 0][..], &ip].concat();
    let wifi = [&[8, 1, 0, 0][..], &MACS, &[1; 6], &[0x10, 0], &snap].concat();
    let qos = [&[0x88, 0x03, 0, 0][..], &MACS, &[1; 6], &[0x10, 0], &[2; 6], &[0, 0], &snap].concat();
    let padded = [&[0, 0, 9, 0, 2, 0, 0, 0, 0x20][..], &[0x88, 1, 0, 0], &MACS, &[1; 6], &[0x10, 0], &[0; 4], &snap].concat();
    let cases: [(u16, &[u8], &[u8]); 24] = [
        (6, &[&[0x10, 0x40][..], &MACS].concat(), &snap),
        (10, &[&[0x57][..], &MACS].concat(), &snap),
        (100, &[], &snap),
        (105, &[], &wifi),
        (105, &[], &qos),
        (127, &[0, 0, 8, 0, 0, 0, 0, 0], &wifi),
        (127, &[], &padded),
        (119, &[&[0, 0, 0, 0x44][..], &[0; 140]].concat(), &wifi),
        (163, &[&[0x80, 0x21, 0x10, 1, 0, 0, 0, 64][..], &[0; 56]].concat(), &wifi),
        (192, &[0, 0, 8, 0, 105, 0, 0, 0], &wifi),
        (122, &[&[0, 0][..], &MACS[..6], &[0, 0], &MACS[6..]].concat(), &snap),
        (138, &[&[1; 16][..], &[8, 0]].concat(), &ip),
        (242, &[&[0; 40][..], &[8, 0, 0, 0]].concat(), &ip),
        (143, &[0, 0, 0, 60, 0, 0], &frame),
        (178, b"MGC\x00", &frame),
        (240, &[0, 0x40, 4, 0], &frame),
        (241, &[0; 12], &frame),
        (259, &[0x55; 8], &frame),
        (274, &[0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0xd5], &frame),
        (281, &[&MACS[..], &[0, 0, 0, 1]].concat(), &frame[12..]),
        (282, &[0, 0, 0, 1], &frame),
        (285, &[&MACS[..], &[0xda, 0xda, 0, 0, 0xc0, 0, 0, 1]].concat(), &frame[12..]),
        (220, &[&[0; 9][..], &[3], &[0; 54]].concat(), &frame),
        (189, &[&[0; 9][..], &[3], &[0; 38], &[1, 0, 0, 0, 80, 0, 0, 0, 36, 0, 0, 0], &[0; 32]].concat(), &frame),
    ];
    cases.into_iter().map(|(link, head, rest)| (link, [head, rest].concat())).collect()
}

/// Frames of link types of other lines, and of the metadata of operating systems.
fn other_links() -> Vec<(u16, Vec<u8>)> {
    let (frame, ip) = inner();
    let pktap = [&[108, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0][..], &[0; 96]].concat();
    let cases: [(u16, &[u8], &[u8]); 25] = [
        (8, &[0; 16], &ip),
        (9, &[0x21], &ip),
        (9, &[0xff, 3, 0, 0x3d, 0xc0, 0, 0, 1, 0x21], &ip),
        (9, &[0, 0x31, 0, 1], &frame),
        (50, &[0x0f, 0, 8, 0], &ip),
        (51, &[0x11, 0, 0, 7, 0, 40, 0, 0x21], &ip),
        (104, &[0x0f, 0, 8, 0], &ip),
        (107, &[0x18, 0x41, 3, 0xcc], &ip),
        (107, &[0x18, 0x41, 8, 0], &ip),
        (107, &[0x18, 0x41, 3, 0, 0x80, 0, 0, 0, 8, 0], &ip),
        (109, &[0; 12], &ip),
        (117, &[&[45, 2, 0, 0][..], &[0; 44]].concat(), &ip),
        (123, &[2, 0, 0, 32, 0xaa, 0xaa, 3, 0, 0, 0, 8, 0], &ip),
        (128, &[1, 0, 0, 1, 1], &frame),
        (166, &[1, 3, 0, 0x21], &ip),
        (182, &[0xc0, 1, 0x18, 0x41, 3, 0xcc], &ip),
        (197, &[&[0; 8][..], &[2, 0, 0, 60, 0, 0, 0, 60, 0, 0]].concat(), &frame),
        (204, &[1, 0xff, 3, 0, 0x21], &ip),
        (205, &[1, 0x0f, 0, 8, 0], &ip),
        (206, &[1, 0x18, 0x41, 3, 0xcc], &ip),
        (219, &[0, 1, 1, 64], &ip),
        (226, &[0; 24], &ip),
        (239, &[2, 0, 0, 5, 8, 0, 1, 0, 8, 0, 3, 0, 44, 0, 9, 0], &ip),
        (252, &[0, 12, 0, 2, b'i', b'p', 0, 0, 0, 0, 0, 0], &ip),
        (258, &pktap, &frame),
    ];
    cases.into_iter().map(|(link, head, rest)| (link, [head, rest].concat())).collect()
}

#[test]
fn link_types_lead_to_the_same_packet() {
    for (link, frame) in local_links().into_iter().chain(other_links()) {
        leads(&format!("link type {link}"), LinkType(link), &frame, WANT);
    }
}

#[test]
fn frames_without_a_packet_are_counted_by_link_type() {
    let decoder = Decoder::default();
    for (link, frame) in [(105, [0x80; 40]), (143, [0xc2; 40]), (220, [0; 40]), (101, [0x10; 40])] {
        assert_eq!(decoder.decode(LinkType(link), &frame).unwrap_err(), Undecodable::NoPacket(LinkType(link)));
    }
    let refused = decoder.decode(LinkType(195), &[0; 40]).unwrap_err();
    assert_eq!(refused, Undecodable::UnsupportedLink(LinkType::IEEE802_15_4));
    assert_eq!(LinkType(253).to_string(), "Linux netlink (253)", "named by libpcap");
}

#[test]
fn mac_addresses_of_wifi_are_those_of_sender_and_receiver() {
    let (_, ip) = inner();
    for (ds, sender, receiver) in [(0, 2, 1), (1, 2, 3), (2, 3, 1), (3, 4, 3)] {
        let fourth: &[u8] = if ds == 3 { &[4; 6] } else { &[] };
        let snap = [0xaa, 0xaa, 3, 0, 0, 0, 8, 0];
        let frame = [&[8, ds, 0, 0][..], &[1; 6], &[2; 6], &[3; 6], &[0, 0], fourth, &snap, &ip].concat();
        let headers = Decoder::default().decode(LinkType::IEEE802_11, &frame).unwrap();
        assert_eq!((headers.src_mac(&frame), headers.dst_mac(&frame)), (Some([sender; 6]), Some([receiver; 6])), "{ds}");
    }
}

/// The number of frames of a file, and the reason if it ended early.
fn read(bytes: Vec<u8>) -> (usize, Option<String>) {
    let mut file = CaptureFile::from_reader(std::io::Cursor::new(bytes), "case".into()).expect("a capture");
    let (mut batch, mut count) = (FrameBatch::new(), 0);
    while file.fill(&mut batch).expect("a capture") {
        for frame in batch.iter() {
            assert_eq!(flow(&Decoder::default(), frame.link, frame.bytes).as_deref(), Ok(WANT));
            count += 1;
        }
    }
    (count, file.truncation().map(ToString::to_string))
}

#[test]
fn compressed_files_are_read_with_skippable_frames_and_trailing_zeros() {
    let (frame, _) = inner();
    let plain = pcap(1, &vec![frame; 4]);
    let skippable = [0x50, 0x2a, 0x4d, 0x18, 40, 0, 0, 0];
    let zeros = vec![0; 512];
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let lz4_blocks = |bytes: &[u8], size| {
        let mut encoder = FrameEncoder::with_frame_info(FrameInfo::new().block_size(size), Vec::new());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let lz4 = |bytes: &[u8]| lz4_blocks(bytes, BlockSize::Auto);
    let zstd = zstd::encode_all(&plain[..], 3).unwrap();
    let (first, rest) = plain.split_at(60);
    for (name, packed) in [
        ("gzip with zeros", [gzip(&plain), zeros.clone()].concat()),
        ("gzip of two members", [gzip(first), gzip(rest)].concat()),
        ("zstd behind skippable frames", [&skippable[..], &[7; 40], &skippable, &[7; 40], &zstd].concat()),
        ("lz4", lz4(&plain)),
        ("lz4 of two frames", [lz4(first), lz4(rest), zeros].concat()),
        ("lz4 of large and small blocks", [lz4_blocks(first, BlockSize::Max4MB), lz4_blocks(rest, BlockSize::Max64KB)].concat()),
        ("lz4 behind a skippable frame", [&skippable[..], &[7; 40], &lz4(&plain)].concat()),
    ] {
        assert_eq!(read(packed), (4, None), "{name}");
    }
    let cut = gzip(&plain);
    let (count, truncation) = read(cut[..cut.len() - 20].to_vec());
    assert!(count < 4 && truncation.is_some());
}

#[test]
fn snoop_erf_and_old_pcap_files_are_read() {
    let (frame, _) = inner();
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>();
    let len = frame.len() as u32;
    let pad = vec![0; frame.len().next_multiple_of(4) - frame.len()];
    let record = [words(&[len, len, 24 + len + pad.len() as u32, 0, 1_700_000_000, 5]), frame.clone(), pad].concat();
    let snoop = [&b"snoop\0\0\0"[..], &words(&[2, 4]), &record, &record].concat();
    assert_eq!(read(snoop), (2, None));
    let total = (18 + frame.len()).next_multiple_of(8);
    let [high, low] = (total as u16).to_be_bytes();
    let stamp = (1_700_000_000_u64 << 32).to_le_bytes();
    let mut erf = [&stamp[..], &[2, 4, high, low, 0, 0, 0, len as u8, 0, 0], &frame].concat();
    erf.resize(total, 0);
    assert_eq!(read([&erf[..], &erf].concat()), (2, None));
    // Version 2.2 has the length on the wire first.
    let mut old = pcap(1, &[frame.clone(), frame]);
    old[6] = 2;
    for at in [24, 40 + len as usize] {
        old[at + 8..at + 12].copy_from_slice(&1500_u32.to_le_bytes());
    }
    assert_eq!(read(old), (2, None));
}
