use etherparse::PacketBuilder;

use super::host::{half_octaves, level};
use super::*;
use crate::capture::LinkType;
use crate::packet::Decoder;

const MILLISECOND: u64 = 1_000_000;

fn frame(from: ([u8; 4], u16), to: ([u8; 4], u16), flags: u8) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(from.0, to.0, 64).tcp(from.1, to.1, 1, 1000);
    let builder = if flags & SYN != 0 { builder.syn() } else { builder };
    let builder = if flags & ACK != 0 { builder.ack(1) } else { builder };
    let builder = if flags & RST != 0 { builder.rst() } else { builder };
    let builder = if flags & FIN != 0 { builder.fin() } else { builder };
    let mut frame = Vec::new();
    builder.write(&mut frame, &[]).unwrap();
    frame
}

/// The values of a TCP segment with these flags.
fn segment(table: &mut TraceTable, from: ([u8; 4], u16), to: ([u8; 4], u16), flags: u8, time: u64) -> TraceValues {
    let frame = frame(from, to, flags);
    let headers = Decoder::default().decode(LinkType::ETHERNET, &frame).unwrap();
    table.observe(&headers, &frame, Nanos(time))
}

/// The values of a UDP datagram.
fn datagram(table: &mut TraceTable, from: ([u8; 4], u16), to: ([u8; 4], u16), payload: &[u8]) -> TraceValues {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(from.0, to.0, 64).udp(from.1, to.1).write(&mut frame, payload).unwrap();
    let headers = Decoder::default().decode(LinkType::ETHERNET, &frame).unwrap();
    table.observe(&headers, &frame, Nanos(0))
}

fn segment_level(values: &TraceValues, name: &str) -> u8 {
    value(values, name).unwrap_or_else(|| panic!("{name} has no value"))
}

fn value(values: &TraceValues, name: &str) -> Option<u8> {
    let level = values.levels()[trace_names().position(|n| n == name).unwrap()];
    (level != TraceValues::NO_LEVEL).then_some(level)
}

const CLIENT: [u8; 4] = [10, 0, 0, 1];
const SERVER: [u8; 4] = [10, 0, 0, 2];

#[test]
fn names_are_as_many_as_values_and_distinct() {
    let names: std::collections::BTreeSet<String> = trace_names().collect();
    assert_eq!((names.len(), trace_names().count()), (TRACES, TRACES));
}

#[test]
fn levels_grow_two_an_octave() {
    assert_eq!([0.0, 0.7, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 250.0].map(level), [0, 0, 1, 2, 3, 4, 5, 6, 17]);
    assert_eq!([256.0, 1000.0, f32::MAX].map(level), [18; 3]);
    assert_eq!([500.0, 1000.0, f32::MAX].map(half_octaves), [19, 21, 47]);
}

#[test]
fn a_scan_of_ports_raises_the_ports_of_its_source() {
    let mut table = TraceTable::new(1000);
    let last =
        (0..100).map(|i| segment(&mut table, (CLIENT, 4000), (SERVER, 1000 + i as u16), SYN, i * MILLISECOND)).last().unwrap();
    // 100 flows within a tenth of a second; of the ports an estimate.
    assert_eq!(value(&last, "trace.source.begun.60s"), Some(level(99.0)));
    assert!(value(&last, "trace.source.ports.60s").unwrap().abs_diff(level(99.0)) <= 1);
    assert_eq!(value(&last, "trace.source.peers.60s"), Some(level(0.99)));
    assert_eq!(value(&last, "trace.source.answers.1s"), Some(0));
    assert_eq!(value(&last, "trace.destination.sources.10s"), Some(level(0.99)));
    // They decay: after ten seconds little is left at 1 s.
    let later = segment(&mut table, (CLIENT, 4000), (SERVER, 9), SYN, 10_000 * MILLISECOND);
    assert_eq!(value(&later, "trace.source.begun.1s"), Some(level(1.0)));
    assert_eq!(value(&later, "trace.source.begun.10s"), Some(level(1.0 + 99.0 * (-1f32).exp())));
}

#[test]
fn distinct_ports_of_a_long_scan_are_counted_to_its_end() {
    let mut table = TraceTable::new(1000);
    // 100 ports a second for five minutes.
    for i in 0..30_000u16 {
        let values = segment(&mut table, (CLIENT, 4000), (SERVER, 1 + i), SYN, u64::from(i) * 10 * MILLISECOND);
        let [second, ten] = ["1s", "10s"].map(|tau| value(&values, &format!("trace.source.ports.{tau}")).unwrap());
        if i > 6000 {
            // 100 at 1 s: the estimate varies, since one port in some stands for all of them.
            assert!((level(20.0)..=level(200.0)).contains(&second), "{second} at {i}");
            assert!(ten >= level(200.0), "{ten} at {i}");
        }
    }
}

#[test]
fn answers_and_resets_are_counted_once_for_a_flow() {
    let mut table = TraceTable::new(1000);
    for i in 0..8u64 {
        let (client, server) = ((CLIENT, 4000 + i as u16), (SERVER, 80));
        segment(&mut table, client, server, SYN, i * MILLISECOND);
        segment(&mut table, server, client, RST | ACK, i * MILLISECOND);
        segment(&mut table, server, client, RST | ACK, i * MILLISECOND);
    }
    let values = segment(&mut table, (CLIENT, 5000), (SERVER, 80), SYN, 10 * MILLISECOND);
    assert_eq!(value(&values, "trace.source.answers.60s"), Some(level(7.9)));
    assert_eq!(value(&values, "trace.source.resets.60s"), Some(level(7.9)));
    assert_eq!(value(&values, "trace.destination.answered.60s"), Some(level(7.9)));
    assert_eq!(value(&values, "trace.service.flows.60s"), Some(level(8.9)));
}

#[test]
fn replies_are_payload_of_the_service_after_payload_of_the_host() {
    let mut table = TraceTable::new(1000);
    let (client, server) = ((CLIENT, 4000), (SERVER, 53));
    let mut send = |from, to, payload| value(&datagram(&mut table, from, to, payload), "trace.service.replies.60s");
    assert_eq!(send(client, server, b"?"), Some(0));
    assert_eq!(send(client, server, b"?"), Some(0));
    assert_eq!(send(server, client, b""), Some(0), "no payload");
    assert_eq!(send(server, client, b"!"), Some(level(1.0)));
    assert_eq!(send(server, client, b"!"), Some(level(1.0)), "the same reply goes on");
    // Those of packets without values are counted with the next that has some: the thirty-second.
    let sixteenth =
        (0..11).map(|i| if i % 2 == 0 { send(client, server, b"?") } else { send(server, client, b"!") }).last().unwrap();
    assert_eq!(sixteenth, Some(level(6.0)));
    assert!((0..15).all(|i| if i % 2 == 0 { send(server, client, b"!") } else { send(client, server, b"?") }.is_none()));
    assert_eq!(send(client, server, b"?"), Some(level(14.0)));
}

#[test]
fn flows_are_requested_once_their_client_sent_payload() {
    let mut table = TraceTable::new(1000);
    let server = (SERVER, 53);
    let mut send = |from, to, payload| value(&datagram(&mut table, from, to, payload), "trace.destination.requested.10s");
    let clients = [4000, 4001, 4002].map(|port| (CLIENT, port));
    assert_eq!(send(clients[0], server, b""), Some(0), "no payload");
    assert_eq!(send(server, clients[0], b"!"), Some(0), "payload of the other side");
    assert_eq!(send(clients[0], server, b"?"), Some(level(1.0)));
    assert_eq!(send(clients[0], server, b"?"), Some(level(1.0)), "the same flow");
    assert_eq!(send(clients[1], server, b"?"), Some(level(2.0)));
    assert_eq!(send(clients[2], server, b"?"), Some(level(3.0)));
    assert_eq!(send(server, (CLIENT, 5000), b"?"), Some(level(1.0)), "another host");
}

#[test]
fn flows_are_open_until_the_first_segment_that_closes_them() {
    let mut table = TraceTable::new(1000);
    let server = (SERVER, 80);
    let mut send = |from, to, flags| value(&segment(&mut table, from, to, flags, 0), "trace.service.open");
    let clients = [4000, 4001, 4002, 4003].map(|port| (CLIENT, port));
    for (number, client) in (1u8..).zip(clients) {
        assert_eq!(send(client, server, SYN), Some(level(number.into())));
        assert_eq!(send(server, client, SYN | ACK), Some(level(number.into())));
    }
    assert_eq!(send(clients[0], server, FIN | ACK), Some(level(3.0)));
    assert_eq!(send(server, clients[0], FIN | ACK), Some(level(3.0)), "closed before");
    assert_eq!(send(server, clients[1], RST | ACK), Some(level(2.0)));
    assert_eq!(send((CLIENT, 5000), (SERVER, 81), SYN), Some(level(1.0)), "another service");
    assert_eq!(send(clients[1], server, SYN), Some(level(3.0)), "opened again");
    for _ in 0..PACKETS {
        send(clients[2], server, ACK);
    }
    assert_eq!(send(clients[2], server, FIN | ACK), None, "a packet without values");
    assert_eq!(send(clients[3], server, ACK), Some(level(2.0)), "counts nevertheless");
}

#[test]
fn a_beacon_is_regular_and_people_are_not() {
    let regular = |gap: &dyn Fn(u64) -> u64| {
        let (mut table, mut time) = (TraceTable::new(1000), 0);
        let flows = (0..12).map(|i| {
            time += gap(i);
            segment(&mut table, (CLIENT, 4000 + i as u16), (SERVER, 443), SYN, time)
        });
        value(&flows.last().unwrap(), "trace.service.regular").unwrap()
    };
    assert_eq!(regular(&|_| 30_000 * MILLISECOND), 10);
    assert!(regular(&|i| (30_000 + i % 3 * 1500) * MILLISECOND) >= 8, "a tenth of jitter");
    assert!(regular(&|i| (1 + i * i % 7) * 10_000 * MILLISECOND) <= 2);
}

#[test]
fn later_packets_have_values_at_each_doubling_and_once_a_second() {
    let mut table = TraceTable::new(1000);
    let mut run = |packets: std::ops::Range<u64>, gap: u64| -> Vec<u64> {
        let later = |&i: &u64| segment(&mut table, (CLIENT, 4000), (SERVER, 80), ACK, i * gap).later().is_some();
        packets.filter(later).map(|i| i + 1).collect()
    };
    assert_eq!(run(0..200, 1), [32, 64, 128]);
    // 100 packets a second from then on: the 100th after the last with values is the first that is due.
    assert_eq!(run(200..600, 10 * MILLISECOND), [201, 256, 356, 456, 512]);
}

#[test]
fn each_pair_of_hosts_in_arp_requests_has_values_of_its_own() {
    let mut table = TraceTable::new(1000);
    let mut ask = |target: u8, time: u64| {
        let arp = [[0, 1, 8, 0, 6, 4, 0, 1].as_slice(), &[2; 6], &CLIENT, &[0; 6], &[10, 0, 0, target]].concat();
        let frame = [[0xff; 6].as_slice(), &[2; 6], &[8, 6], &arp].concat();
        let headers = Decoder::default().decode(LinkType::ETHERNET, &frame).unwrap();
        table.observe(&headers, &frame, Nanos(time))
    };
    let values: Vec<_> = (0..50).map(|i| ask(i, u64::from(i) * MILLISECOND)).collect();
    assert!(values.iter().all(|values| values.later() == Some(1)), "though all are one stream");
    assert!(value(&values[49], "trace.source.peers.10s").unwrap().abs_diff(level(49.0)) <= 1);
    assert_eq!(ask(7, 60 * MILLISECOND).later(), None, "known");
}

#[test]
fn packets_since_the_last_values_add_up() {
    let mut table = TraceTable::new(1000);
    let since = |i: u64| segment(&mut table, (CLIENT, 4000), (SERVER, 80), ACK, i * MILLISECOND).later().unwrap_or(0);
    assert_eq!((0..1024).map(since).sum::<u32>(), 1024 - 16);
}

#[test]
fn the_packets_of_one_flow_are_a_rate() {
    let mut table = TraceTable::new(1000);
    // 1,000 packets a second for 4.096 s; every fourth is answered. The last values are those of the 4,096th packet, after 3.3 s.
    let mut last = TraceValues::NONE;
    for i in 0..4096u64 {
        let values = segment(&mut table, (CLIENT, 4000), (SERVER, 80), ACK, i * MILLISECOND);
        if values != TraceValues::NONE {
            last = values;
        }
        if i % 4 == 3 {
            segment(&mut table, (SERVER, 80), (CLIENT, 4000), ACK, i * MILLISECOND);
        }
    }
    let near = |name: &str, expected: f32| {
        let level_of = segment_level(&last, name);
        assert!(level_of.abs_diff(level(expected)) <= 1, "{name}: {level_of}, expected {}", level(expected));
    };
    near("trace.flow.forward.1s", 1000.0);
    near("trace.flow.forward.10s", 10_000.0 * (1.0 - (-0.33f32).exp()));
    near("trace.flow.backward.1s", 250.0);
    near("trace.source.packets.1s", 1000.0);
    near("trace.destination.packets.10s", 10_000.0 * (1.0 - (-0.33f32).exp()));
    assert_eq!(value(&last, "trace.source.begun.60s"), Some(level(0.95)), "it is one flow");
}

#[test]
fn a_connection_that_is_closed_and_opened_again_is_scored_again() {
    let mut table = TraceTable::new(1000);
    let mut later = |flags: u8| segment(&mut table, (CLIENT, 4000), (SERVER, 80), flags, MILLISECOND).later();
    assert_eq!(
        [SYN, SYN, RST, SYN, SYN, FIN | ACK, SYN | ACK, SYN].map(&mut later),
        [None, None, None, Some(1), None, None, None, Some(1)]
    );
}

#[test]
fn a_table_that_follows_has_values_where_the_other_has() {
    let (mut first, mut slower) = (TraceTable::new(1000), TraceTable::new(1000).stretched(10.0));
    for i in 0..5000u64 {
        let values = segment(&mut first, (CLIENT, 4000), (SERVER, 80), ACK, i * MILLISECOND);
        let due = values != TraceValues::NONE;
        let frame = frame((CLIENT, 4000), (SERVER, 80), ACK);
        let headers = Decoder::default().decode(LinkType::ETHERNET, &frame).unwrap();
        assert_eq!(slower.follow(&headers, &frame, Nanos(i * MILLISECOND), due) != TraceValues::NONE, due);
    }
}

#[test]
fn time_can_be_stretched() {
    let run = |stretch: f64, gap: u64| {
        let mut table = TraceTable::new(1000).stretched(stretch);
        (0..50).map(|i| segment(&mut table, (CLIENT, 4000), (SERVER, 1 + i as u16), SYN, i * gap)).last().unwrap()
    };
    assert_eq!(run(1.0, 100 * MILLISECOND), run(10.0, 10 * MILLISECOND));
    assert_ne!(run(1.0, 100 * MILLISECOND), run(1.0, 10 * MILLISECOND));
}

#[test]
fn forged_sources_do_not_evict_their_victim() {
    let mut table = TraceTable::new(1000);
    for i in 0..100_000u32 {
        segment(&mut table, (i.to_be_bytes(), 1), (SERVER, 80), SYN, u64::from(i) * 1000);
    }
    assert!(table.hosts() <= 1000);
    assert!(table.take_evicted() > 90_000);
    let values = segment(&mut table, ([1, 2, 3, 4], 1), (SERVER, 80), SYN, 100 * MILLISECOND);
    assert!(value(&values, "trace.destination.received.60s").unwrap() >= level(90_000.0));
}

#[test]
fn fragments_after_the_first_are_no_flows_and_vlans_may_be_left_out() {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(CLIENT, SERVER, 64).udp(1000, 53).write(&mut frame, &[0; 32]).unwrap();
    let mut later = frame.clone();
    later[21] = 4;
    let tagged = [&frame[..12], &[0x81, 0, 0, 7], &frame[12..]].concat();
    for (by_vlan, begun) in [(true, 2.0), (false, 1.0)] {
        let mut table = TraceTable::new(1000).by_vlan(by_vlan);
        let mut observe = |frame: &[u8], time: u64| {
            let headers = Decoder::default().decode(LinkType::ETHERNET, frame).unwrap();
            table.observe(&headers, frame, Nanos(time))
        };
        observe(&frame, 0);
        assert_eq!(observe(&later, 1), TraceValues::NONE);
        assert_eq!(value(&observe(&tagged, 2), "trace.source.begun.60s"), Some(level(begun)), "{by_vlan}");
    }
}

#[test]
fn what_is_kept_of_hosts_flows_and_services_stays_small() {
    // A million hosts, and a quarter as many flows and services, take some 200 MB.
    assert!(size_of::<Host>() <= 192 && size_of::<Flow>() <= 88 && size_of::<Service>() <= 56);
}
