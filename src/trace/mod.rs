//! Traces: leaky counts of what each host did recently, which become slot values of the packets of its flows.
//!
//! Input: packets in the order of their source, each with its time. Output: [`TraceValues`] for the first packets of each flow, and for
//! some later ones: at every doubling of its packets, and once a second while it is busy. So a flood that is one flow is seen by its packets' rate.
//! A connection that is closed and opened again with the same ports is another flow.
//!
//! A trace is the membrane potential of a leaky integrator that receives one spike per event: `v <- v exp(-dt / tau) + w`, the
//! damped statistics of Kitsune (Mirsky et al. 2018, section IV-C). Time is the time of the packets, so that a capture gives the same
//! traces at any speed. One [`TraceTable`] sees all packets, whatever the number of workers.

mod bounded;
mod host;
mod rates;
mod service;
mod values;

pub use values::{RATES, TRACES, TraceValues, trace_names};

use std::hash::BuildHasher;

use foldhash::fast::RandomState;

use crate::capture::Nanos;
use crate::packet::{Headers, Network, Transport, VlanTags};

use bounded::Handle;
pub(crate) use bounded::{Activity, BoundedTable};
use host::{Count, Host};
use rates::PacketRates;
use service::Service;

/// Packets of a flow, from its first, that receive trace values.
const PACKETS: u32 = 16;
/// A later packet receives trace values if it is the 32nd, 64th, ... of its flow, or if so many packets came since the last that received
/// some, a second or more ago. So at most one later packet in this many has values, besides one per doubling.
const BUSY: u32 = 32;
/// Time between two such packets of a busy flow: 1 s.
const BUSY_GAP: u64 = 1_000_000_000;
/// A flow without a packet for this long has ended: 60 s.
const FLOW_IDLE: u64 = 60_000_000_000;
/// Flows and services remembered for each host that the table has room for, in tables of the usual size.
const PER_HOST: usize = 4;
/// Larger tables remember this many of each, since few of many hosts are active at once, or one for each eight hosts if that is more.
const USUAL_FLOWS: usize = 1 << 18;

/// Hosts that a table has room for, unless set otherwise.
pub const DEFAULT_HOSTS: usize = 1 << 16;

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const FIN: u8 = 0x01;
const ACK: u8 = 0x10;

/// Source and destination of a packet.
struct Endpoints {
    source: u128,
    destination: u128,
    source_port: u16,
    destination_port: u16,
    /// IP protocol, or the EtherType of ARP.
    protocol: u16,
    vlans: VlanTags,
}

impl Endpoints {
    fn pair(&self) -> ((u128, u16), (u128, u16)) {
        ((self.source, self.source_port), (self.destination, self.destination_port))
    }

    /// Whether the sender is the smaller of the two endpoints.
    fn is_from_smaller(&self) -> bool {
        let (source, destination) = self.pair();
        source <= destination
    }

    /// Endpoints of an IP packet; of an ARP packet the sender's and the target's protocol address (RFC 826). `None` for other frames, and
    /// for fragments after the first: they have no ports, and are of a flow that was counted.
    fn of(headers: &Headers, frame: &[u8]) -> Option<Self> {
        let ip = |address: std::net::IpAddr| match address {
            std::net::IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
            std::net::IpAddr::V6(address) => address.to_bits(),
        };
        let (source, destination) = match headers.network {
            _ if headers.later_fragment => return None,
            Network::Arp => headers.arp_hosts(frame)?.map(ip).into(),
            _ => (ip(headers.src_addr(frame)?), ip(headers.dst_addr(frame)?)),
        };
        let (source_port, destination_port) = headers.ports(frame);
        let protocol = if headers.network == Network::Arp { headers.ether_type } else { u16::from(headers.ip_protocol) };
        Some(Self { source, destination, source_port, destination_port, protocol, vlans: headers.vlans })
    }
}

/// What is known of a flow.
struct Flow {
    last: Nanos,
    rates: PacketRates,
    /// The host that began it, the other, and the service.
    source: Handle,
    destination: Handle,
    service: Handle,
    /// Saturating.
    packets: u32,
    /// Replies that the service does not count yet.
    replies: u8,
    /// Whether the host that began the flow sent payload after the other's last.
    asked: bool,
    /// Whether the smaller of its two endpoints began it.
    begun_by_smaller: bool,
    answered: bool,
    /// Whether the host that began the flow sent payload.
    requested: bool,
    reset: bool,
    closed: bool,
}

impl Flow {
    /// Whether a packet after the first ones receives trace values.
    fn is_due(&self, now: Nanos) -> bool {
        let doubled = self.packets >= BUSY && self.packets.is_power_of_two();
        doubled || (self.rates.pending() >= BUSY && self.rates.age(now) >= BUSY_GAP)
    }

    /// Whether a packet with these TCP flags begins another flow of the same addresses and ports, because this one was closed.
    fn is_reopened(&self, flags: u8) -> bool {
        self.closed && flags & (SYN | ACK) == SYN
    }

    /// Whether a packet with these TCP flags at `now` begins another flow of the same addresses and ports.
    fn is_over(&self, now: Nanos, flags: u8) -> bool {
        now.0.saturating_sub(self.last.0) > FLOW_IDLE || self.is_reopened(flags)
    }
}

impl Activity for Flow {
    fn activity(&self) -> (u32, Nanos) {
        // Flows of many packets may be floods; those of a packet are alike.
        (self.packets.max(1).ilog2(), self.last)
    }
}

/// Traces of all hosts, bounded: where there is no room the quietest of a few entries is evicted.
pub struct TraceTable {
    /// Factor on the time between packets, and the first packet's time.
    stretch: f64,
    first: Option<Nanos>,
    /// Secret, so that addresses can't be chosen to collide.
    hasher: RandomState,
    /// Whether flows of different VLANs are different flows.
    by_vlan: bool,
    hosts: BoundedTable<Host>,
    flows: BoundedTable<Flow>,
    services: BoundedTable<Service>,
}

impl TraceTable {
    /// An empty table for at most `hosts` hosts.
    pub fn new(hosts: usize) -> Self {
        let hosts = hosts.max(16);
        let flows = (hosts * PER_HOST).min(USUAL_FLOWS.max(hosts / 8));
        Self {
            stretch: 1.0,
            first: None,
            hasher: RandomState::default(),
            by_vlan: true,
            hosts: BoundedTable::new(hosts),
            flows: BoundedTable::new(flows),
            services: BoundedTable::new(flows),
        }
    }

    /// The table with the time between packets multiplied by `stretch`: with 10 the packets seem ten times slower.
    #[must_use]
    pub fn stretched(self, stretch: f64) -> Self {
        Self { stretch, ..self }
    }

    /// The table with flows that are the same in every VLAN, unless `by_vlan`.
    #[must_use]
    pub fn by_vlan(self, by_vlan: bool) -> Self {
        Self { by_vlan, ..self }
    }

    /// Number of hosts with traces.
    pub fn hosts(&self) -> usize {
        self.hosts.len()
    }

    /// Number of hosts that were evicted since the last call.
    pub fn take_evicted(&mut self) -> u64 {
        self.hosts.take_evicted()
    }

    /// Counts a packet. Returns the trace values of the hosts of its flow: [`TraceValues::NONE`] for frames without addresses and for
    /// packets whose flow is not due.
    pub fn observe(&mut self, headers: &Headers, frame: &[u8], now: Nanos) -> TraceValues {
        self.count(headers, frame, now, None)
    }

    /// [`TraceTable::observe`] with values if and only if `due`: for a table that follows another at another pace.
    pub fn follow(&mut self, headers: &Headers, frame: &[u8], now: Nanos, due: bool) -> TraceValues {
        self.count(headers, frame, now, Some(due))
    }

    fn count(&mut self, headers: &Headers, frame: &[u8], now: Nanos, due: Option<bool>) -> TraceValues {
        let Some(ends) = Endpoints::of(headers, frame) else { return TraceValues::NONE };
        let now = self.stretch_time(now);
        let flags = if headers.transport == Transport::Tcp { headers.tcp_flags } else { 0 };
        let key = self.flow_key(&ends);
        let known = self.flows.place(key);
        let reopened = known.is_some_and(|place| self.flows.at(place).is_reopened(flags));
        let going_on = known.filter(|&place| !self.flows.at(place).is_over(now, flags));
        let place = going_on.unwrap_or_else(|| self.begin(key, &ends, now, headers.payload_wire_len == 0));
        let flow = self.flows.at(place);
        flow.last = flow.last.max(now);
        flow.packets = flow.packets.saturating_add(1);
        let forward = flow.begun_by_smaller == ends.is_from_smaller();
        flow.rates.add(usize::from(!forward));
        let answers = !forward && !std::mem::replace(&mut flow.answered, true);
        let requests = forward && headers.payload_wire_len > 0 && !std::mem::replace(&mut flow.requested, true);
        let resets = flags & RST != 0 && !forward && !std::mem::replace(&mut flow.reset, true);
        let closes = flags & (RST | FIN) != 0 && !std::mem::replace(&mut flow.closed, true);
        if headers.payload_wire_len > 0 {
            let replies = !forward && flow.asked;
            flow.replies = flow.replies.saturating_add(u8::from(replies));
            flow.asked = forward;
        }
        // To the stream table all ARP requests of a host are one stream, and so are segments with the same ports that are reset and repeated.
        let within_stream = reopened || headers.network == Network::Arp;
        let later = flow.packets > PACKETS || (flow.packets == 1 && within_stream);
        let due = due.unwrap_or(flow.packets <= PACKETS || flow.is_due(now));
        if !due && !answers && !requests && !resets && !closes {
            return TraceValues::NONE;
        }
        // Their cache misses overlap.
        self.hosts.prefetch(flow.source);
        self.hosts.prefetch(flow.destination);
        self.services.prefetch(flow.service);
        if answers {
            self.hosts.entry_of(&mut flow.source, Host::default).add(Count::Answers, now, 1.0);
            self.hosts.entry_of(&mut flow.destination, Host::default).add(Count::Answered, now, 1.0);
        }
        if requests {
            self.hosts.entry_of(&mut flow.destination, Host::default).request(now);
        }
        if resets {
            self.hosts.entry_of(&mut flow.source, Host::default).add(Count::Resets, now, 1.0);
        }
        if closes {
            self.services.entry_of(&mut flow.service, Service::default).close(now);
        }
        if !due {
            return TraceValues::NONE;
        }
        let (since, values) = self.values(place, !forward, now);
        if later { values.of_later_packet(since) } else { values }
    }

    fn stretch_time(&mut self, now: Nanos) -> Nanos {
        let first = *self.first.get_or_insert(now);
        if self.stretch == 1.0 {
            return now;
        }
        Nanos(first.0 + (now.0.saturating_sub(first.0) as f64 * self.stretch) as u64)
    }

    /// A flow's key, the same for both directions.
    fn flow_key(&self, ends: &Endpoints) -> u64 {
        let (a, b) = ends.pair();
        let vlans = if self.by_vlan { ends.vlans } else { VlanTags::NONE };
        self.hasher.hash_one((a.min(b), a.max(b), ends.protocol, vlans))
    }

    /// Counts the begin of a flow. `empty`: its first packet has no payload. Returns where the flow lies.
    fn begin(&mut self, key: u64, ends: &Endpoints, now: Nanos, empty: bool) -> usize {
        let mut source = Handle::new(self.hasher.hash_one(ends.source));
        let mut destination = Handle::new(self.hasher.hash_one(ends.destination));
        let mut service =
            Handle::new(self.hasher.hash_one((ends.source, ends.destination, ends.destination_port, ends.protocol)));
        self.services.entry_of(&mut service, Service::default).begin(now);
        let port = u128::from(ends.destination_port) << 16 | u128::from(ends.protocol);
        let host = self.hosts.entry_of(&mut source, Host::default);
        host.add(Count::Begun, now, 1.0);
        host.add_new(Count::Ports, now, port);
        host.add_new(Count::Peers, now, ends.destination);
        if empty {
            host.add(Count::Empty, now, 1.0);
        }
        let host = self.hosts.entry_of(&mut destination, Host::default);
        host.add(Count::Received, now, 1.0);
        host.add_new(Count::Sources, now, ends.source);
        let flow = Flow {
            last: now,
            rates: PacketRates::new(now),
            begun_by_smaller: ends.is_from_smaller(),
            source,
            destination,
            service,
            packets: 0,
            replies: 0,
            asked: false,
            answered: false,
            requested: false,
            reset: false,
            closed: false,
        };
        self.flows.insert(key, flow)
    }

    /// Trace values of the flow that lies at `place`, at a packet of it, and the packets of the flow since its last values.
    fn values(&mut self, place: usize, backward: bool, now: Nanos) -> (u32, TraceValues) {
        let flow = self.flows.at(place);
        let (since, weights) = flow.rates.update(usize::from(backward), now);
        let rates = flow.rates.levels();
        let host = self.hosts.entry_of(&mut flow.source, Host::default);
        host.add_weights(Count::Sent, now, weights);
        let source = host.levels();
        let host = self.hosts.entry_of(&mut flow.destination, Host::default);
        host.add_weights(Count::Arrived, now, weights);
        let destination = host.levels();
        let service = self.services.entry_of(&mut flow.service, Service::default);
        service.reply(now, std::mem::take(&mut flow.replies));
        let service = service.levels(now);
        (since, TraceValues::new(&source, &destination, &service, &rates))
    }
}

#[cfg(test)]
mod tests;
