//! Where do the slots lie? The layout is data: it is chosen at training, rests in the model and is checked when loaded.
//!
//! Masked by default, because it names a host or a flow and not what the stream is: addresses (but for multicast groups,
//! which name a protocol), IP identification, checksums, TCP sequence and acknowledgement numbers, TCP timestamp values.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::vector::{self, MIX, MULTIPLY, Pairs};
use super::{SILENT, Shape, Volley};
use crate::packet::{Network, Transport};
use crate::typed_index::typed_index;

/// The most slots a layout may have: one volley stays within four cache lines.
pub const MAX_SLOTS: usize = 128;
/// The most payload octets that the built-in layout has room for.
pub const MAX_PAYLOAD: u16 = 48;
/// The most inputs that one volley may activate (every slot and every coincidence): 256 weights of at most 127 sum within an i16.
pub const MAX_ACTIVE: usize = 256;
/// The most coincidence inputs, as a power of two.
const MAX_COINCIDENCE_BITS: u32 = 20;

/// The header that a slot's offset counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Not a header octet but what the decoder or the stream knows; the offset names it.
    Derived,
    Ipv4,
    /// The destination, where it is a multicast group.
    Ipv4Group,
    Ipv6,
    Ipv6Group,
    Arp,
    Tcp,
    TcpOption,
    Udp,
    Sctp,
    Icmp,
    Icmpv6,
    Igmp,
    Payload,
}

const PLACES: usize = 14;

/// Slots that are masked together: by slot dropout in training, by `--without` when reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    Link,
    Network,
    Ttl,
    Ports,
    Transport,
    Options,
    Length,
    Payload,
    Context,
}

impl Group {
    /// Every group, in the order of the header.
    pub const ALL: [Group; 9] = [
        Group::Link,
        Group::Network,
        Group::Ttl,
        Group::Ports,
        Group::Transport,
        Group::Options,
        Group::Length,
        Group::Payload,
        Group::Context,
    ];

    /// The word that `--without` takes.
    pub fn name(self) -> &'static str {
        match self {
            Group::Link => "link",
            Group::Network => "network",
            Group::Ttl => "ttl",
            Group::Ports => "ports",
            Group::Transport => "transport",
            Group::Options => "options",
            Group::Length => "length",
            Group::Payload => "payload",
            Group::Context => "context",
        }
    }
}

typed_index! {
    /// A slot, by its place in its [`Layout`].
    SlotId(u16)
}

/// One header octet at a known place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// The field's name as Wireshark users know it, with the octet within the field where it has several.
    pub name: String,
    pub place: Place,
    /// Octets from the start of the place.
    pub offset: u16,
    pub group: Group,
    /// Bits of the octet, counted from the lowest, that dual-rail coding codes.
    #[serde(default = "all_bits", skip_serializing_if = "is_all_bits")]
    pub bits: u8,
}

const ALL_BITS: u8 = 8;

fn all_bits() -> u8 {
    ALL_BITS
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_all_bits(bits: &u8) -> bool {
    *bits == ALL_BITS
}

/// How a slot's value becomes inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Coding {
    /// One input neuron a value: 256 a slot.
    OneHot,
    /// Two input neurons a bit, most significant first: input 2i spikes for 0, 2i + 1 for 1 (Davies et al. 2025, section 3).
    DualRail,
}

/// As it rests in a model file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LayoutData {
    coding: Coding,
    slots: Vec<Slot>,
    /// Pairs of slots whose joint value excites one of `2^coincidence_bits` coincidence inputs, chosen by a hash.
    coincidences: Vec<(SlotId, SlotId)>,
    coincidence_bits: u32,
}

/// What a user may choose about a layout.
#[derive(Clone, Debug)]
pub struct LayoutOptions {
    pub coding: Coding,
    /// Payload octets seen, 0 to [`MAX_PAYLOAD`].
    pub payload: u16,
    pub coincidence_bits: u32,
}

impl Default for LayoutOptions {
    fn default() -> Self {
        Self { coding: Coding::OneHot, payload: 8, coincidence_bits: 16 }
    }
}

/// Why a layout is refused.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    #[error("the layout has {0} slots; between 1 and {MAX_SLOTS} are allowed")]
    Slots(usize),
    #[error("coincidence {0} names slot {1}, which the layout does not have")]
    Coincidence(usize, SlotId),
    #[error("the layout has {0} coincidences; at most {1} are allowed")]
    Coincidences(usize, usize),
    #[error("the layout asks for 2^{0} coincidence inputs; between 2^1 and 2^{MAX_COINCIDENCE_BITS} are allowed")]
    Bits(u32),
    #[error("no slot group or field is called '{0}'; there are {1}")]
    Unknown(String, String),
}

/// A checked layout, ready to encode.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "LayoutData", into = "LayoutData")]
pub struct Layout {
    data: LayoutData,
    /// For each place its (slot, offset) pairs.
    places: [Vec<(SlotId, u16)>; PLACES],
    /// For each [`Shape`] the slots and the (number, first, second slot) of the coincidences that may be active.
    shapes: Vec<Active>,
    pairs: Pairs,
    masked: Vec<SlotId>,
    /// The slots of the TCP flags and of the payload's length bucket.
    tcp_flags: Option<SlotId>,
    payload_size: Option<SlotId>,
}

#[derive(Clone, Debug)]
struct Active {
    slots: Vec<SlotId>,
    coincidences: Vec<(u32, SlotId, SlotId)>,
    /// Those of the slots that hold ports, and the coincidences that involve one of them; none with dual-rail coding.
    ports: Vec<SlotId>,
    port_coincidences: Vec<(u32, SlotId, SlotId)>,
}

impl Active {
    fn new(data: &LayoutData, present: impl Fn(Place) -> bool) -> Self {
        let has = |slot: SlotId| present(data.slots[slot.index()].place);
        let port = |slot: SlotId| data.coding == Coding::OneHot && data.slots[slot.index()].group == Group::Ports;
        let pairs = (0u32..).zip(&data.coincidences).map(|(i, &(a, b))| (i, a, b));
        let slots: Vec<SlotId> = SlotId::first(data.slots.len()).filter(|&slot| has(slot)).collect();
        let coincidences: Vec<_> = pairs.filter(|&(_, a, b)| has(a) && has(b)).collect();
        Self {
            ports: slots.iter().copied().filter(|&slot| port(slot)).collect(),
            port_coincidences: coincidences.iter().copied().filter(|&(_, a, b)| port(a) || port(b)).collect(),
            slots,
            coincidences,
        }
    }
}

/// Whether packets with these headers have octets of a place.
fn place_in(place: Place, network: usize, transport: usize) -> bool {
    let (on, over) = (|n: Network| network == n as usize, |t: Transport| transport == t as usize);
    match place {
        Place::Derived | Place::Payload => true,
        Place::Ipv4 | Place::Ipv4Group => on(Network::Ipv4),
        Place::Ipv6 | Place::Ipv6Group => on(Network::Ipv6),
        Place::Arp => on(Network::Arp),
        Place::Tcp | Place::TcpOption => over(Transport::Tcp),
        Place::Udp => over(Transport::Udp),
        Place::Sctp => over(Transport::Sctp),
        Place::Icmp => over(Transport::Icmp),
        Place::Icmpv6 => over(Transport::Icmpv6),
        Place::Igmp => over(Transport::Igmp),
    }
}

impl PartialEq for Layout {
    fn eq(&self, other: &Self) -> bool {
        self.data == other.data
    }
}

impl TryFrom<LayoutData> for Layout {
    type Error = LayoutError;

    fn try_from(data: LayoutData) -> Result<Self, LayoutError> {
        let slots = data.slots.len();
        if slots == 0 || slots > MAX_SLOTS {
            return Err(LayoutError::Slots(slots));
        }
        let room = MAX_ACTIVE - slots;
        if data.coding == Coding::DualRail && slots * 8 > MAX_ACTIVE {
            return Err(LayoutError::Slots(slots));
        }
        if data.coincidences.len() > room {
            return Err(LayoutError::Coincidences(data.coincidences.len(), room));
        }
        if data.coincidence_bits > MAX_COINCIDENCE_BITS || (data.coincidence_bits == 0 && !data.coincidences.is_empty()) {
            return Err(LayoutError::Bits(data.coincidence_bits));
        }
        for (i, &(a, b)) in data.coincidences.iter().enumerate() {
            if let Some(&bad) = [a, b].iter().find(|s| s.index() >= slots) {
                return Err(LayoutError::Coincidence(i, bad));
            }
        }
        let mut places: [Vec<(SlotId, u16)>; PLACES] = Default::default();
        for (i, slot) in SlotId::first(slots).zip(&data.slots) {
            places[slot.place as usize].push((i, slot.offset));
        }
        let mut shapes = vec![Active::new(&data, |_| true)];
        for headers in 0..Shape::COUNT - 1 {
            let (network, transport) = (headers / Transport::COUNT, headers % Transport::COUNT);
            shapes.push(Active::new(&data, |place| place_in(place, network, transport)));
        }
        let pairs = Pairs::new(&data.coincidences);
        let find = |name: &str| data.slots.iter().position(|s| s.name == name).map(SlotId::from_index);
        let (tcp_flags, payload_size) = (find("tcp.flags"), find("payload.size"));
        Ok(Self { data, places, shapes, pairs, masked: Vec::new(), tcp_flags, payload_size })
    }
}

impl From<Layout> for LayoutData {
    fn from(layout: Layout) -> Self {
        layout.data
    }
}

impl Layout {
    /// The header layout of this program, as the options ask.
    pub fn headers(options: &LayoutOptions) -> Self {
        let mut b = Builder::default();
        b.add(Place::Derived, Group::Link, "eth.type", &[0, 1]);
        b.add(Place::Derived, Group::Link, "frame.receiver", &[2]);
        b.add(Place::Ipv4, Group::Network, "ip.ihl", &[0]);
        b.add(Place::Ipv4, Group::Network, "ip.tos", &[1]);
        b.add(Place::Ipv4, Group::Length, "ip.len", &[2, 3]);
        b.add(Place::Ipv4, Group::Network, "ip.flags", &[6, 7]);
        b.add(Place::Ipv4, Group::Ttl, "ip.ttl", &[8]);
        b.add(Place::Ipv4, Group::Network, "ip.proto", &[9]);
        b.add(Place::Ipv4Group, Group::Network, "ip.group", &[0, 1, 2, 3]);
        b.add(Place::Ipv6, Group::Network, "ipv6.class", &[0, 1]);
        b.add(Place::Ipv6, Group::Length, "ipv6.plen", &[4, 5]);
        b.add(Place::Ipv6, Group::Network, "ipv6.nxt", &[6]);
        b.add(Place::Ipv6, Group::Ttl, "ipv6.hlim", &[7]);
        b.add(Place::Ipv6Group, Group::Network, "ipv6.group", &[1, 14, 15]);
        b.add(Place::Arp, Group::Network, "arp.opcode", &[6, 7]);
        b.add(Place::Tcp, Group::Ports, "tcp.srcport", &[0, 1]);
        b.add(Place::Tcp, Group::Ports, "tcp.dstport", &[2, 3]);
        b.add(Place::Tcp, Group::Transport, "tcp.hdr_len", &[12]);
        b.add(Place::Tcp, Group::Transport, "tcp.flags", &[13]);
        b.add(Place::Tcp, Group::Transport, "tcp.window", &[14, 15]);
        b.add(Place::Tcp, Group::Transport, "tcp.urgent", &[19]);
        b.add(Place::TcpOption, Group::Options, "tcp.options", &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 16, 17, 18, 19]);
        b.add(Place::Udp, Group::Ports, "udp.srcport", &[0, 1]);
        b.add(Place::Udp, Group::Ports, "udp.dstport", &[2, 3]);
        b.add(Place::Udp, Group::Length, "udp.length", &[4, 5]);
        b.add(Place::Sctp, Group::Ports, "sctp.srcport", &[0, 1]);
        b.add(Place::Sctp, Group::Ports, "sctp.dstport", &[2, 3]);
        b.add(Place::Sctp, Group::Transport, "sctp.chunk", &[12, 13]);
        b.add(Place::Icmp, Group::Transport, "icmp.type", &[0]);
        b.add(Place::Icmp, Group::Transport, "icmp.code", &[1]);
        b.add(Place::Icmpv6, Group::Transport, "icmpv6.type", &[0]);
        b.add(Place::Icmpv6, Group::Transport, "icmpv6.code", &[1]);
        b.add(Place::Igmp, Group::Transport, "igmp.type", &[0]);
        b.add(Place::Derived, Group::Length, "payload.len", &[5, 6]);
        b.add(Place::Derived, Group::Length, "payload.size", &[7]);
        let payload: Vec<u16> = (0..options.payload.min(MAX_PAYLOAD)).collect();
        b.add(Place::Payload, Group::Payload, "payload", &payload);
        b.add(Place::Derived, Group::Context, "stream.direction", &[3]);
        b.add(Place::Derived, Group::Context, "stream.position", &[4]);
        b.add(Place::Derived, Group::Context, "stream.previous", &[8]);
        let slots = b.slots;
        let mut coincidences = Vec::new();
        if options.coding == Coding::OneHot && options.coincidence_bits > 0 {
            let find = |name: &str| slots.iter().position(|s| s.name == name).map(SlotId::from_index);
            for i in 1..slots.len() {
                // Neighbouring octets of one header.
                if slots[i].place == slots[i - 1].place && slots[i].place != Place::Derived {
                    coincidences.push((SlotId::from_index(i - 1), SlotId::from_index(i)));
                }
            }
            for (a, b) in PAIRS {
                if let (Some(a), Some(b)) = (find(a), find(b)) {
                    coincidences.push((a, b));
                }
            }
        }
        let data = LayoutData { coding: options.coding, slots, coincidences, coincidence_bits: options.coincidence_bits };
        Layout::try_from(data).expect("the built-in layout keeps its own limits")
    }

    /// The founding paper's layout: one word of `bits` bits, at most 16, in dual-rail coding.
    pub fn paper_word(bits: u8) -> Self {
        let mut b = Builder::default();
        b.add(Place::Payload, Group::Payload, "word", &[0, 1]);
        b.slots[0].bits = bits.saturating_sub(ALL_BITS);
        b.slots[1].bits = bits.min(ALL_BITS);
        let data = LayoutData { coding: Coding::DualRail, slots: b.slots, coincidences: Vec::new(), coincidence_bits: 0 };
        Layout::try_from(data).expect("two slots are within the limits")
    }

    /// The active inputs of a word, for a layout that [`Layout::paper_word`] made.
    pub fn word(&self, word: u16) -> Vec<u32> {
        let (mut volley, mut active) = (Volley::default(), [0; MAX_ACTIVE]);
        (volley.slots[0], volley.slots[1]) = (word >> 8, word & 0xff);
        let n = self.inputs(&volley, &mut active);
        active[..n].to_vec()
    }

    /// The slots, in input order.
    pub fn slots(&self) -> &[Slot] {
        &self.data.slots
    }

    /// How slot values become inputs.
    pub fn coding(&self) -> Coding {
        self.data.coding
    }

    /// Pairs of slots that have coincidence inputs.
    pub fn coincidences(&self) -> &[(SlotId, SlotId)] {
        &self.data.coincidences
    }

    /// The (slot, offset) pairs of a place.
    pub(super) fn places(&self, place: Place) -> &[(SlotId, u16)] {
        &self.places[place as usize]
    }

    /// Slots that [`Layout::mask`] masked.
    pub fn masked(&self) -> &[SlotId] {
        &self.masked
    }

    /// Silences them among the slot values of a volley.
    pub fn apply_mask(&self, slots: &mut [u16]) {
        self.masked.iter().for_each(|&slot| slots[slot.index()] = SILENT);
    }

    /// Whether slot values, none of them masked, are those of a packet that shows what its stream carries: [`Volley::content`].
    pub fn is_content(&self, slots: &[u16]) -> bool {
        let has = |slot: Option<SlotId>, none: u16| slot.is_some_and(|slot| slots[slot.index()] != none);
        !has(self.tcp_flags, SILENT) || has(self.payload_size, 0)
    }

    /// Writes the active inputs that depend on the packet's ports into `active`, returns how many: those of the port slots, and of the
    /// coincidences of a port with anything.
    pub fn port_inputs(&self, volley: &Volley, active: &mut [u32; MAX_ACTIVE]) -> usize {
        let shape = &self.shapes[volley.shape.0 as usize];
        let mut n = 0;
        for &slot in &shape.ports {
            let value = volley.slots[slot.index()];
            active[n] = (slot.index() as u32) << 8 | u32::from(value & 0xff);
            n += usize::from(value != SILENT);
        }
        for &(i, a, b) in &shape.port_coincidences {
            let (va, vb) = (volley.slots[a.index()], volley.slots[b.index()]);
            active[n] = self.coincidence_input(i as usize, va, vb);
            n += usize::from(va != SILENT && vb != SILENT);
        }
        n
    }

    /// Inputs that a slot has.
    fn slot_inputs(&self) -> usize {
        match self.data.coding {
            Coding::OneHot => 256,
            Coding::DualRail => 16,
        }
    }

    /// All inputs: slots, then coincidences.
    pub fn input_count(&self) -> usize {
        let coincidences = if self.data.coincidences.is_empty() { 0 } else { 1 << self.data.coincidence_bits };
        self.data.slots.len() * self.slot_inputs() + coincidences
    }

    /// For each value that a slot can have one of, the inputs of which one at most is active: those of a slot, or of a bit in
    /// dual-rail coding. Coincidences have none: the same input may stand for several.
    pub fn rails(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let rails = if self.data.coding == Coding::DualRail { 2 } else { 256 };
        (0..self.data.slots.len() * self.slot_inputs()).step_by(rails).map(move |first| first..first + rails)
    }

    /// The slots of a group.
    pub fn group(&self, group: Group) -> impl Iterator<Item = SlotId> + '_ {
        SlotId::first(self.slots().len()).zip(self.slots()).filter(move |(_, s)| s.group == group).map(|(i, _)| i)
    }

    /// Silences a group ("ports"), a field ("tcp.window") or a header ("ipv6") from now on. It does not change what rests in a model.
    ///
    /// # Errors
    /// [`LayoutError::Unknown`] where no slot bears that name.
    pub fn mask(&mut self, name: &str) -> Result<(), LayoutError> {
        let before = self.masked.len();
        for (i, slot) in SlotId::first(self.data.slots.len()).zip(&self.data.slots) {
            let field = slot.name.split('[').next().unwrap_or(&slot.name);
            if slot.group.name() == name || field == name || field.split('.').next() == Some(name) {
                self.masked.push(i);
            }
        }
        if self.masked.len() == before {
            let groups: Vec<_> = Group::ALL.iter().map(|g| g.name()).collect();
            return Err(LayoutError::Unknown(name.into(), groups.join(", ")));
        }
        Ok(())
    }

    /// Writes the volley's active inputs into `active`, returns how many.
    #[inline]
    pub fn inputs(&self, volley: &Volley, active: &mut [u32; MAX_ACTIVE]) -> usize {
        let (count, bits) = (self.data.slots.len(), self.data.coincidence_bits);
        let wide = (self.data.coding == Coding::OneHot)
            .then(|| vector::inputs(&volley.slots, count, &self.pairs, self.coincidences_at(), bits, active));
        wide.flatten().unwrap_or_else(|| self.inputs_plain(volley, active))
    }

    /// [`Layout::inputs`] as a plain loop.
    pub(super) fn inputs_plain(&self, volley: &Volley, active: &mut [u32; MAX_ACTIVE]) -> usize {
        let mut n = self.slot_inputs_of(volley, active);
        for &(i, a, b) in &self.shapes[volley.shape.0 as usize].coincidences {
            let (va, vb) = (volley.slots[a.index()], volley.slots[b.index()]);
            active[n] = self.coincidence_input(i as usize, va, vb);
            n += usize::from(va != SILENT && vb != SILENT);
        }
        n
    }

    #[inline]
    fn slot_inputs_of(&self, volley: &Volley, active: &mut [u32; MAX_ACTIVE]) -> usize {
        let mut n = 0;
        for &slot in &self.shapes[volley.shape.0 as usize].slots {
            let value = volley.slots[slot.index()];
            let number = u32::from(u16::from(slot));
            match self.data.coding {
                Coding::OneHot => {
                    active[n] = number << 8 | u32::from(value & 0xff);
                    n += usize::from(value != SILENT);
                }
                Coding::DualRail if value != SILENT => {
                    for bit in u32::from(ALL_BITS - self.data.slots[slot.index()].bits.min(ALL_BITS))..8 {
                        active[n] = number * 16 + bit * 2 + u32::from(value >> (7 - bit) & 1);
                        n += 1;
                    }
                }
                Coding::DualRail => {}
            }
        }
        n
    }

    /// The first coincidence input.
    fn coincidences_at(&self) -> u32 {
        (self.data.slots.len() * self.slot_inputs()) as u32
    }

    /// The input that the values of coincidence `pair` share with whatever else hashes to it.
    #[inline]
    fn coincidence_input(&self, pair: usize, a: u16, b: u16) -> u32 {
        self.coincidences_at() + (coincidence_hash(pair as u32, a, b) >> (32 - self.data.coincidence_bits))
    }

    /// All that may add to a potential, by name: the slots, then the coincidences. For [`Layout::inputs_of`].
    pub fn contributors(&self) -> impl Iterator<Item = (String, usize)> + '_ {
        let name = |i: SlotId| self.data.slots[i.index()].name.as_str();
        let pairs = self.data.coincidences.iter().map(move |&(a, b)| format!("{} & {}", name(a), name(b)));
        self.data.slots.iter().map(|s| s.name.clone()).chain(pairs).enumerate().map(|(i, name)| (name, i))
    }

    /// The inputs that contributor `at` activates for a volley.
    pub fn inputs_of(&self, volley: &Volley, at: usize) -> Vec<u32> {
        let slots = self.data.slots.len();
        let mut only = Volley::default();
        let pair = at.checked_sub(slots).map(|c| self.data.coincidences[c]);
        let (a, b) = pair.unwrap_or_else(|| (SlotId::from_index(at), SlotId::from_index(at)));
        for slot in [a, b] {
            only.slots[slot.index()] = volley.slots[slot.index()];
        }
        match pair {
            None => {
                let mut active = [0; MAX_ACTIVE];
                let n = self.slot_inputs_of(&only, &mut active);
                active[..n].to_vec()
            }
            Some(_) if only.slots[a.index()] == SILENT || only.slots[b.index()] == SILENT => Vec::new(),
            Some(_) => vec![self.coincidence_input(at - slots, only.slots[a.index()], only.slots[b.index()])],
        }
    }

    /// The value that contributor `at` has in a volley, for people; `None` where it is silent.
    pub fn value_of(&self, volley: &Volley, at: usize) -> Option<String> {
        let value = |slot: SlotId| Some(volley.slots[slot.index()]).filter(|&v| v != SILENT);
        match at.checked_sub(self.data.slots.len()) {
            None => value(SlotId::from_index(at)).map(|v| v.to_string()),
            Some(c) => {
                let (a, b) = self.data.coincidences[c];
                Some(format!("{}&{}", value(a)?, value(b)?))
            }
        }
    }
}

/// Multiplicative mixing of a pair's number and its two values; the top bits are used.
#[inline]
fn coincidence_hash(pair: u32, a: u16, b: u16) -> u32 {
    let x = pair << 16 | u32::from(a & 0xff) << 8 | u32::from(b & 0xff);
    let x = (x ^ MIX).wrapping_mul(MULTIPLY[0]);
    (x ^ x >> 15).wrapping_mul(MULTIPLY[1])
}

/// Coincidences across headers, beside neighbouring octets.
const PAIRS: [(&str, &str); 30] = [
    ("ip.ttl", "tcp.window[0]"),
    ("ip.proto", "ip.ttl"),
    ("ip.flags[0]", "ip.ttl"),
    ("tcp.flags", "payload.size"),
    ("tcp.flags", "tcp.window[0]"),
    ("tcp.flags", "stream.position"),
    ("payload[0]", "payload[2]"),
    ("payload[0]", "payload[3]"),
    ("payload[1]", "payload[3]"),
    ("payload[2]", "payload[4]"),
    ("payload[3]", "payload[5]"),
    ("payload[0]", "payload.size"),
    ("payload[1]", "payload.size"),
    ("payload[0]", "ip.proto"),
    ("payload[0]", "ipv6.nxt"),
    ("payload[0]", "udp.dstport[1]"),
    ("payload[0]", "udp.srcport[1]"),
    ("payload[0]", "tcp.dstport[1]"),
    ("payload[0]", "tcp.srcport[1]"),
    ("payload.len[0]", "payload.len[1]"),
    ("payload.len[1]", "payload[1]"),
    ("payload.len[1]", "payload[2]"),
    ("payload.len[1]", "payload[3]"),
    ("payload.len[1]", "payload[4]"),
    ("payload.size", "stream.position"),
    ("payload.size", "stream.direction"),
    ("payload.size", "stream.previous"),
    ("payload[0]", "stream.direction"),
    ("payload[0]", "stream.previous"),
    ("stream.direction", "stream.position"),
];

#[derive(Default)]
struct Builder {
    slots: Vec<Slot>,
}

impl Builder {
    /// One slot an offset; several octets of one field are numbered.
    fn add(&mut self, place: Place, group: Group, name: &str, offsets: &[u16]) {
        let many = offsets.len() > 1 || place == Place::Payload;
        for (i, &offset) in offsets.iter().enumerate() {
            let name = if many { format!("{name}[{i}]") } else { name.to_string() };
            self.slots.push(Slot { name, place, offset, group, bits: ALL_BITS });
        }
    }
}
