//! Layout of the slots, checked when a model is loaded.
//!
//! A layout is data: it is chosen at training and stored in the model file. It says which byte each slot holds and which pairs of slots
//! have coincidence inputs.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::permute::Permutation;
use super::vector::{Chunks, PAYLOAD, PORTS};
use super::{SILENT, Shape};
use crate::packet::{Network, Transport};
use crate::trace::{DEFAULT_HOSTS, RATES, TraceTable};
use crate::typed_index::typed_index;

/// Largest number of slots of a layout, so that one volley stays within four cache lines.
pub const MAX_SLOTS: usize = 128;
/// Largest number of inputs that one volley may activate (every slot and every coincidence): 256 weights of at most 127 add up within an
/// i16.
pub const MAX_ACTIVE: usize = 256;
/// Largest number of coincidence inputs, as a power of two.
const MAX_COINCIDENCE_BITS: u32 = 20;

/// The header that a slot's offset counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// A value that the decoder or the stream knows and that is not a header byte; the offset says which.
    Derived,
    /// The IPv4 header.
    Ipv4,
    /// The destination address of an IPv4 header, if it is a multicast group.
    Ipv4Group,
    /// The IPv6 header.
    Ipv6,
    /// The destination address of an IPv6 header, if it is a multicast group.
    Ipv6Group,
    /// The ARP packet.
    Arp,
    /// The TCP header.
    Tcp,
    /// The options of the TCP header.
    TcpOption,
    /// The UDP header.
    Udp,
    /// The SCTP common header and the first chunk.
    Sctp,
    /// The ICMP message.
    Icmp,
    /// The ICMPv6 message.
    Icmpv6,
    /// The IGMP message.
    Igmp,
    /// The payload of the transport protocol.
    Payload,
    /// The same, with one value, that of `x`, for all ASCII letters and digits: the bytes show the format, and no names.
    FoldedPayload,
    /// A trace of the flow's hosts and not a header byte; the offset is its number among [`trace_names`](crate::trace::trace_names).
    Trace,
}

/// Number of [`Place`]s.
const PLACES: usize = 16;

/// Offsets of the slots with [`Place::Derived`]. Model files hold them.
pub(super) mod derived {
    /// The EtherType, a slot per byte.
    pub const ETHER_TYPE_HIGH: u16 = 0;
    pub const ETHER_TYPE_LOW: u16 = 1;
    /// Receiver: 0 one host, 1 a group, 2 broadcast.
    pub const RECEIVER: u16 = 2;
    /// [`Context::direction`](super::super::Context::direction).
    pub const DIRECTION: u16 = 3;
    /// [`Context::position`](super::super::Context::position), at most 15.
    pub const POSITION: u16 = 4;
    /// The payload's length on the wire in bytes, a slot per byte; the high one saturates.
    pub const PAYLOAD_LEN_HIGH: u16 = 5;
    pub const PAYLOAD_LEN_LOW: u16 = 6;
    /// [`length_bucket`](super::super::length_bucket) of the payload's length.
    pub const PAYLOAD_BUCKET: u16 = 7;
    /// [`Context::previous`](super::super::Context::previous).
    pub const PREVIOUS: u16 = 8;
    /// IP protocol, type and code of an ICMP message, the same for IPv4 and IPv6: see [`icmp`](super::super::icmp).
    pub const PROTOCOL: u16 = 9;
    pub const ICMP_TYPE: u16 = 10;
    pub const ICMP_CODE: u16 = 11;
}

/// Slots that are masked together: at random in training (slot dropout), by `--mask` when reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// EtherType and kind of receiver.
    Link,
    /// Fields of the network header that are in no other group.
    Network,
    /// IPv4 time to live, IPv6 hop limit.
    Ttl,
    /// Source and destination port.
    Ports,
    /// Fields of the transport header that are in no other group.
    Transport,
    /// TCP options.
    Options,
    /// Lengths.
    Length,
    /// Payload bytes.
    Payload,
    /// What the stream knows: direction, position, previous packet.
    Context,
    /// What the flow's hosts did recently.
    Trace,
}

impl Group {
    /// Every group, in the order of the header.
    pub const ALL: [Group; 10] = [
        Group::Link,
        Group::Network,
        Group::Ttl,
        Group::Ports,
        Group::Transport,
        Group::Options,
        Group::Length,
        Group::Payload,
        Group::Context,
        Group::Trace,
    ];

    /// The name that `--mask` takes.
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
            Group::Trace => "trace",
        }
    }
}

typed_index! {
    /// A slot, by its place in its [`Layout`].
    SlotId(u16)
}

/// One byte of a header, at a fixed offset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// Name of the field, as in Wireshark, with the number of the byte within the field if it has several: `ip.len[1]`.
    pub name: String,
    /// The header.
    pub place: Place,
    /// Bytes from the start of the header.
    pub offset: u16,
    /// The group that it is masked with.
    pub group: Group,
    /// Number of the byte's bits, from the lowest, that dual-rail coding codes.
    #[serde(default = "all_bits", skip_serializing_if = "is_all_bits")]
    pub bits: u8,
}

/// Bits of a byte.
pub(super) const ALL_BITS: u8 = 8;

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
    /// One input neuron per value: 256 per slot.
    OneHot,
    /// Two input neurons per bit, most significant first: input 2i spikes for 0, input 2i + 1 for 1 (Davies et al. 2025, section 3).
    DualRail,
}

/// A layout as model files hold it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LayoutData {
    pub coding: Coding,
    pub slots: Vec<Slot>,
    /// Pairs of slots. A hash of their two values chooses one of `2^coincidence_bits` coincidence inputs.
    pub coincidences: Vec<(SlotId, SlotId)>,
    pub coincidence_bits: u32,
}

/// Why a layout is rejected.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// Number of slots that is not allowed.
    #[error("the layout has {0} slots; between 1 and {MAX_SLOTS} are allowed")]
    Slots(usize),
    /// Number of a coincidence, and a slot of it that does not exist.
    #[error("coincidence {0} names slot {1}, which the layout does not have")]
    Coincidence(usize, SlotId),
    /// Number of coincidences, and the largest number allowed with the layout's slots.
    #[error("the layout has {0} coincidences; at most {1} are allowed")]
    Coincidences(usize, usize),
    /// Coincidence inputs, as a power of two that is not allowed.
    #[error("the layout asks for 2^{0} coincidence inputs; between 2^1 and 2^{MAX_COINCIDENCE_BITS} are allowed")]
    Bits(u32),
    /// A name that is not a group, field or header, and the names of the groups.
    #[error("no slot group or field is called '{0}'; there are {1}")]
    Unknown(String, String),
}

/// Slots side by side whose offsets follow each other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    /// Number of the first slot.
    pub slot: usize,
    /// Its offset.
    pub offset: usize,
    /// Number of slots.
    pub len: usize,
}

impl Run {
    /// The runs of a place's slots.
    fn of(places: &[(SlotId, u16)]) -> Vec<Self> {
        let mut runs: Vec<Self> = Vec::new();
        for &(slot, offset) in places {
            let (slot, offset) = (slot.index(), usize::from(offset));
            match runs.last_mut() {
                Some(run) if (run.slot + run.len, run.offset + run.len) == (slot, offset) => run.len += 1,
                _ => runs.push(Self { slot, offset, len: 1 }),
            }
        }
        runs
    }
}

/// A checked layout, ready to encode.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "LayoutData", into = "LayoutData")]
pub struct Layout {
    pub(super) data: LayoutData,
    /// Slots and their offsets, `[place]`.
    places: [Vec<(SlotId, u16)>; PLACES],
    /// The same as runs, `[place]`.
    runs: [Vec<Run>; PLACES],
    /// What may be active, `[shape]`.
    pub(super) shapes: Vec<ShapeInputs>,
    /// Slots and coincidences, for vector instructions.
    pub(super) chunks: Chunks,
    /// Which byte each slot holds, for vector instructions; `None` if they have no room for an offset.
    pub(super) permutation: Option<Permutation>,
    /// Slots that [`Layout::mask`] has masked.
    masked: Vec<SlotId>,
    /// The slot of the TCP flags.
    pub(super) tcp_flags: Option<SlotId>,
    /// The slot of the payload's length bucket.
    pub(super) payload_size: Option<SlotId>,
}

/// The slots and coincidences that may be active in packets of one [`Shape`]. Coincidences: number, first slot, second slot.
#[derive(Clone, Debug)]
pub(super) struct ShapeInputs {
    pub slots: Vec<SlotId>,
    pub coincidences: Vec<(u32, SlotId, SlotId)>,
    /// What involves ports; nothing with dual-rail coding.
    pub ports: GroupInputs,
    /// What involves payload bytes; nothing with dual-rail coding.
    pub payload: GroupInputs,
}

/// The slots of one [`Group`], and the coincidences that involve one of them.
#[derive(Clone, Debug)]
pub(super) struct GroupInputs {
    pub slots: Vec<SlotId>,
    pub coincidences: Vec<(u32, SlotId, SlotId)>,
}

impl ShapeInputs {
    fn new(data: &LayoutData, present: impl Fn(Place) -> bool) -> Self {
        let has = |slot: SlotId| present(data.slots[slot.index()].place);
        let pairs = (0u32..).zip(&data.coincidences).map(|(i, &(a, b))| (i, a, b));
        let slots: Vec<SlotId> = SlotId::first(data.slots.len()).filter(|&slot| has(slot)).collect();
        let coincidences: Vec<_> = pairs.filter(|&(_, a, b)| has(a) && has(b)).collect();
        let involving = |group: Group| {
            let of = |slot: SlotId| data.coding == Coding::OneHot && data.slots[slot.index()].group == group;
            GroupInputs {
                slots: slots.iter().copied().filter(|&slot| of(slot)).collect(),
                coincidences: coincidences.iter().copied().filter(|&(_, a, b)| of(a) || of(b)).collect(),
            }
        };
        Self { ports: involving(Group::Ports), payload: involving(Group::Payload), slots, coincidences }
    }
}

impl Place {
    /// Whether packets of a [`Shape`], by its number, have bytes of this place.
    pub(super) fn is_in(self, shape: usize) -> bool {
        let Some(headers) = shape.checked_sub(1) else { return true };
        let on = |network: Network| headers / Transport::COUNT == network as usize;
        let over = |transport: Transport| headers % Transport::COUNT == transport as usize;
        match self {
            Place::Derived | Place::Trace => true,
            Place::Ipv4 | Place::Ipv4Group => on(Network::Ipv4),
            Place::Ipv6 | Place::Ipv6Group => on(Network::Ipv6),
            Place::Arp => on(Network::Arp),
            Place::Tcp | Place::TcpOption => over(Transport::Tcp),
            Place::Udp => over(Transport::Udp),
            Place::Sctp => over(Transport::Sctp),
            Place::Icmp => over(Transport::Icmp),
            Place::Icmpv6 => over(Transport::Icmpv6),
            Place::Igmp => over(Transport::Igmp),
            Place::Payload | Place::FoldedPayload => !on(Network::Arp),
        }
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
        let runs = std::array::from_fn(|place| Run::of(&places[place]));
        let shapes = (0..Shape::COUNT).map(|shape| ShapeInputs::new(&data, |place| place.is_in(shape))).collect();
        let part = |slot: SlotId| match data.slots[slot.index()].group {
            Group::Ports => Some(PORTS),
            Group::Payload => Some(PAYLOAD),
            _ => None,
        };
        let chunks = Chunks::new(slots, &data.coincidences, part);
        let permutation = Permutation::new(&data.slots);
        let find = |name: &str| data.slots.iter().position(|s| s.name == name).map(SlotId::from_index);
        let (tcp_flags, payload_size) = (find("tcp.flags"), find("payload.size"));
        Ok(Self { data, places, runs, shapes, chunks, permutation, masked: Vec::new(), tcp_flags, payload_size })
    }
}

impl From<Layout> for LayoutData {
    fn from(layout: Layout) -> Self {
        layout.data
    }
}

impl Layout {
    /// The slots, `[slot]`.
    pub fn slots(&self) -> &[Slot] {
        &self.data.slots
    }

    /// Whether some slots hold traces.
    pub fn has_traces(&self) -> bool {
        !self.places(Place::Trace).is_empty()
    }

    /// Whether some slots hold packet rates, so that a flow whose packets go on is scored again.
    pub fn has_packet_rates(&self) -> bool {
        self.places(Place::Trace).iter().any(|&(_, number)| RATES.contains(&number.into()))
    }

    /// An empty table of traces, if some slots hold traces.
    pub fn traces(&self) -> Option<TraceTable> {
        self.has_traces().then(|| TraceTable::new(DEFAULT_HOSTS))
    }

    /// How slot values become inputs.
    pub fn coding(&self) -> Coding {
        self.data.coding
    }

    /// Pairs of slots that have coincidence inputs.
    pub fn coincidences(&self) -> &[(SlotId, SlotId)] {
        &self.data.coincidences
    }

    /// The slots of a place and their offsets.
    pub(crate) fn places(&self, place: Place) -> &[(SlotId, u16)] {
        &self.places[place as usize]
    }

    /// The slots of a place as runs.
    pub(super) fn runs(&self, place: Place) -> &[Run] {
        &self.runs[place as usize]
    }

    /// The slots of a group.
    pub fn group(&self, group: Group) -> impl Iterator<Item = SlotId> + '_ {
        SlotId::first(self.slots().len()).zip(self.slots()).filter(move |(_, s)| s.group == group).map(|(i, _)| i)
    }

    /// Number of inputs of a slot.
    pub(super) fn slot_inputs(&self) -> usize {
        match self.data.coding {
            Coding::OneHot => 256,
            Coding::DualRail => 16,
        }
    }

    /// The input of a value, 0 to 255, of a slot; `None` with dual-rail coding, where values share inputs.
    pub(crate) fn input(&self, slot: SlotId, value: u16) -> Option<usize> {
        (self.data.coding == Coding::OneHot).then(|| slot.index() * self.slot_inputs() + usize::from(value))
    }

    /// Number of inputs: those of the slots, then those of the coincidences.
    pub fn input_count(&self) -> usize {
        let coincidences = if self.data.coincidences.is_empty() { 0 } else { 1 << self.data.coincidence_bits };
        self.data.slots.len() * self.slot_inputs() + coincidences
    }

    /// Ranges of inputs of which at most one is active: the inputs of a slot, or of a bit with dual-rail coding. Coincidence inputs are in
    /// none, because several pairs may share one.
    pub fn rails(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let rails = if self.data.coding == Coding::DualRail { 2 } else { 256 };
        (0..self.data.slots.len() * self.slot_inputs()).step_by(rails).map(move |first| first..first + rails)
    }

    /// Masks a group ("ports"), a field ("tcp.window") or a header ("ipv6") in this copy of the layout: its slots stay silent from now on.
    /// Model files do not hold masks.
    ///
    /// # Errors
    /// [`LayoutError::Unknown`] if no slot has that name.
    pub fn mask(&mut self, name: &str) -> Result<(), LayoutError> {
        let before = self.masked.len();
        for (i, slot) in SlotId::first(self.data.slots.len()).zip(&self.data.slots) {
            let field = slot.name.split('[').next().unwrap_or(&slot.name);
            if slot.group.name() == name || field == name || field.split('.').next() == Some(name) {
                self.masked.push(i);
            }
        }
        if self.masked.len() == before {
            let present = |group: &&Group| self.data.slots.iter().any(|slot| slot.group == **group);
            let groups: Vec<_> = Group::ALL.iter().filter(present).map(|group| group.name()).collect();
            return Err(LayoutError::Unknown(name.into(), groups.join(", ")));
        }
        Ok(())
    }

    /// Slots that [`Layout::mask`] has masked.
    pub fn masked(&self) -> &[SlotId] {
        &self.masked
    }

    /// Makes the masked slots silent in `slots`, the slot values of a volley.
    pub fn apply_mask(&self, slots: &mut [u16]) {
        self.masked.iter().for_each(|&slot| slots[slot.index()] = SILENT);
    }
}
