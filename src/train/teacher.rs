//! Order and form in which the packets of a corpus are presented to the network in training.
//!
//! Slot dropout: each packet is shown whole and once without each group of slots, so that neurons rely on the whole header and
//! recognise a protocol on an unknown port, and once without the folded payload bytes, which are random in encrypted messages and in cookies.
//! Later packets of flows are shown whole alone: they show what a stream carries rather than what it is, and a network that relies on their
//! payload takes TLS for SOCKS where it does not know TLS. Slot noise: packets of flows that have content are also shown with the ports of a
//! packet of another class, so that neurons do not rely on ports that contradict the content, and some with random payload, for no class, so
//! that ports alone do not name whatever comes over them. If cross-validation favours it ([`super::fit()`]), packets of classes with few streams
//! are also shown with their ports alone: otherwise such a class relies on what only those few streams have in common.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::encode::{Group, MAX_ACTIVE, Place, SILENT, SlotId, Volley};
use crate::packet::KeyKind;
use crate::prefetch::{prefetch, prefetch_span};
use crate::snn::{self, ClassId, NeuronSpec, Presentation, Presentations, Stdp};

use super::ports::{PortPool, Ports};
use super::random::{below, randomise_payload};
use super::transports::inhibit;
use super::{Corpus, TrainSettings};

/// Groups of slots that are silent together, one set for each presentation.
const DROPOUT: [&[Group]; 6] = [
    &[Group::Ports],
    &[Group::Network, Group::Ttl],
    &[Group::Transport, Group::Options],
    &[Group::Payload],
    &[Group::Length],
    &[Group::Context],
];

/// The same for layouts with traces: without what shows the service, and without the traces.
const TRACE_DROPOUT: [&[Group]; 4] = [
    &[Group::Ports],
    &[Group::Payload, Group::Length],
    &[Group::Ports, Group::Payload, Group::Length, Group::Context],
    &[Group::Trace],
];

/// Largest number of streams of a class whose packets are shown with their ports alone.
const FEW: u32 = 5;

/// Packets with content of a flow, the first ones, behind which packets are later ones.
const FIRST: usize = 4;

/// Number of presentations of a later packet, for streams that are captured from the middle.
const LATER: usize = 3;

/// Of this many packets with payload, one is shown with random payload.
const NOISE: usize = 2;

/// Presents the chosen streams of a corpus.
pub struct TeachingSchedule<'a> {
    corpus: &'a Corpus,
    /// (volley, class) of every packet shown whole and without groups of slots.
    packets: Vec<(u32, ClassId)>,
    /// Slots that are silent, for each presentation of a packet.
    silent: Vec<Vec<SlotId>>,
    /// (volley, class) of every packet shown with its ports alone, and all other slots.
    alone: Vec<(u32, ClassId)>,
    not_ports: Vec<SlotId>,
    /// (volley, class, ports) of every other presentation of a packet, whole: with the ports of another class, or as it is if it is a later one.
    whole: Vec<(u32, ClassId, Option<Ports>)>,
    /// Volleys of the packets shown with random payload bytes, for no class.
    noise: Vec<u32>,
    pool: PortPool,
    gains: Vec<(f32, f32)>,
    seed: u64,
}

impl<'a> TeachingSchedule<'a> {
    /// `shown` gives the class that the teacher forces for a stream, or `None` to leave the stream out.
    pub fn new(corpus: &'a Corpus, settings: &TrainSettings, seed: u64, mut shown: impl FnMut(usize) -> Option<ClassId>) -> Self {
        let classes = corpus.classes.len();
        let (mut packets, mut later) = (Vec::new(), Vec::new());
        let mut streams = vec![0u32; classes];
        for i in 0..corpus.streams.len() {
            if let Some(class) = shown(i) {
                streams[class.index()] += 1;
                let mut content = 0;
                for (volley, _) in corpus.packets_of(i) {
                    if content == FIRST {
                        later.extend([(volley, class, None); LATER]);
                        continue;
                    }
                    packets.push((volley, class));
                    content += usize::from(corpus.by_content() && corpus.layout.is_content(corpus.volley(volley as usize)));
                }
            }
        }
        let mut silent = vec![Vec::new()];
        let dropout: &[&[Group]] = if corpus.layout.has_traces() { &TRACE_DROPOUT } else { &DROPOUT };
        for groups in dropout {
            let slots: Vec<SlotId> = groups.iter().flat_map(|&g| corpus.layout.group(g)).collect();
            if !slots.is_empty() {
                silent.push(slots);
            }
        }
        let folded: Vec<SlotId> = corpus.layout.places(Place::FoldedPayload).iter().map(|&(slot, _)| slot).collect();
        if !folded.is_empty() {
            silent.push(folded);
        }
        let few = |class: ClassId| settings.ports_alone && streams[class.index()] <= FEW;
        let alone = packets.iter().copied().filter(|&(_, class)| few(class)).collect();
        let not_ports = Group::ALL.into_iter().filter(|&g| g != Group::Ports).flat_map(|g| corpus.layout.group(g)).collect();
        // The packets of a host have many different ports already.
        let noisy: &[_] = if corpus.key == KeyKind::Flow { &packets } else { &[] };
        let pool = PortPool::new(corpus, noisy);
        let whole = [other_ports(corpus, noisy, &pool, seed), later].concat();
        let has_payload = |volley: &u32| {
            let values = corpus.volley(*volley as usize);
            pool.transport_of(values).is_some() && corpus.layout.group(Group::Payload).any(|slot| values[slot.index()] != SILENT)
        };
        let noise = if corpus.by_content() {
            noisy.iter().map(|&(volley, _)| volley).filter(has_payload).step_by(NOISE).collect()
        } else {
            Vec::new()
        };
        // Rare classes learn more from each of their packets, so that a class with a flood of packets does not outweigh them.
        let mean = packets.len() as f32 / classes.max(1) as f32;
        let mut shown_packets = vec![0u32; classes];
        for &(_, class) in &packets {
            shown_packets[class.index()] += 1;
        }
        let gains =
            shown_packets.iter().map(|&n| ((mean / n.max(1) as f32).powf(settings.balance).clamp(0.5, 4.0), 1.0)).collect();
        Self { corpus, packets, silent, alone, not_ports, whole, noise, pool, gains, seed }
    }

    /// Trains neurons with `threads` threads and returns their weights, `[input * specs + spec]`: those of STDP ([`snn::train`]), and those that
    /// [inhibit](super::transports) a neuron at other transports. What a neuron learns does not depend on the other neurons. `tick` is called after
    /// each pass of each thread.
    pub(super) fn train(&self, rule: Stdp, specs: &[NeuronSpec], threads: usize, tick: &(dyn Fn() + Sync)) -> Vec<f32> {
        let mut weights = snn::train(rule, self.corpus.layout.input_count(), specs, threads, self, tick);
        inhibit(self.corpus, &self.packets, specs, &mut weights);
        weights
    }

    /// Number of presentations per pass.
    pub fn len(&self) -> usize {
        self.packets.len() * self.silent.len() + self.alone.len() + self.whole.len() + self.noise.len()
    }

    /// Whether there are no presentations.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// What the presentation `index` shows.
    fn shown(&self, index: u32) -> ShownPacket<'_> {
        let (variants, index) = (self.silent.len(), index as usize);
        let shown = |(volley, class): (u32, ClassId), silent, ports| ShownPacket {
            volley: volley as usize,
            class: Some(class),
            silent,
            ports,
        };
        let Some(rest) = index.checked_sub(variants * self.packets.len()) else {
            return shown(self.packets[index / variants], &self.silent[index % variants], None);
        };
        let Some(rest) = rest.checked_sub(self.alone.len()) else { return shown(self.alone[rest], &self.not_ports, None) };
        match self.whole.get(rest) {
            Some(&(volley, class, ports)) => shown((volley, class), &[], ports),
            None => ShownPacket { volley: self.noise[rest - self.whole.len()] as usize, class: None, silent: &[], ports: None },
        }
    }
}

/// A packet as it is presented.
struct ShownPacket<'a> {
    volley: usize,
    /// `None` for a packet with random payload bytes.
    class: Option<ClassId>,
    /// Slots that are silent.
    silent: &'a [SlotId],
    /// Ports in place of its own.
    ports: Option<Ports>,
}

/// For each packet with content, the ports of a packet of another class and the same transport. Packets of a handshake keep their ports:
/// they have nothing else that shows the class.
fn other_ports(corpus: &Corpus, packets: &[(u32, ClassId)], pool: &PortPool, seed: u64) -> Vec<(u32, ClassId, Option<Ports>)> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    // Streams 0, 1, ... order the passes.
    random.set_stream(u64::MAX);
    let other = |&(packet, class): &(u32, ClassId)| {
        let values = corpus.volley(packet as usize);
        let transport = pool.transport_of(values).filter(|_| corpus.layout.is_content(values))?;
        Some((packet, class, Some(pool.other(transport, class, &mut random)?)))
    };
    packets.iter().filter_map(other).collect()
}

impl Presentations for TeachingSchedule<'_> {
    fn order(&self, pass: u32) -> Vec<u32> {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        random.set_stream(u64::from(pass));
        let mut order: Vec<u32> = (0..self.len() as u32).collect();
        for i in (1..order.len()).rev() {
            order.swap(i, below(i + 1, &mut random));
        }
        order
    }

    fn prefetch(&self, soon: u32, later: u32) {
        prefetch_span(self.corpus.volley(self.shown(soon).volley));
        self.packets.get(later as usize / self.silent.len()).into_iter().for_each(prefetch);
    }

    fn present(&self, index: u32, active: &mut [u32; MAX_ACTIVE]) -> Presentation {
        let ShownPacket { volley: volley_index, class, silent, ports } = self.shown(index);
        let slots = self.corpus.volley(volley_index);
        let mut volley = Volley::default();
        volley.slots[..slots.len()].copy_from_slice(slots);
        for &slot in silent {
            volley.slots[slot.index()] = SILENT;
        }
        let part = self.corpus.part(volley_index);
        if class.is_none() {
            let mut random = ChaCha8Rng::seed_from_u64(self.seed);
            // The streams before order the passes.
            random.set_stream(1 << 32 | u64::from(index));
            randomise_payload(&self.corpus.layout, &mut volley.slots, &mut random);
        }
        if let (Some(ports), Some(transport)) = (ports, self.pool.transport_of(slots)) {
            self.pool.set(transport, ports, part, &mut volley.slots);
        }
        Presentation { active: self.corpus.layout.inputs(&volley, active), class, part }
    }

    fn class_weights(&self, class: ClassId) -> (f32, f32) {
        self.gains[class.index()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::{Layout, LayoutOptions};

    /// A corpus of a class of `few` streams and one of a stream more than [`FEW`], each of one packet with every slot's value 1.
    fn corpus(few: usize) -> Corpus {
        let layout = Layout::headers(&LayoutOptions::default());
        let slots = vec![1; layout.slots().len()];
        let mut corpus = Corpus::new(KeyKind::Flow, layout, vec!["few".into(), "many".into()]);
        for class in [vec![0; few], vec![1; FEW as usize + 1]].concat() {
            corpus.push(ClassId::new(class), &slots);
        }
        corpus
    }

    #[test]
    fn only_classes_of_few_streams_see_their_ports_alone_and_only_where_asked() {
        let few = FEW as usize;
        let corpus = corpus(few);
        let plain = TrainSettings::new(KeyKind::Flow, 1);
        let alone = TrainSettings { ports_alone: true, ..plain.clone() };
        let teacher = |settings| TeachingSchedule::new(&corpus, settings, 1, |i| Some(corpus.streams[i].class));
        let (without, with) = (teacher(&plain), teacher(&alone));
        assert_eq!(with.len(), without.len() + few, "one presentation more for each packet of the class of few streams");
        let mut active = [0; MAX_ACTIVE];
        let mut ports = Volley::default();
        corpus.layout.group(Group::Ports).for_each(|slot| ports.slots[slot.index()] = 1);
        let mut expected = [0; MAX_ACTIVE];
        let inputs = corpus.layout.inputs(&ports, &mut expected);
        // First every packet whole and without each group, then those with their ports alone, then those with other ports.
        let common = with.packets.len() * with.silent.len();
        for index in common..common + few {
            let shown = with.present(index as u32, &mut active);
            assert_eq!((shown.active, shown.class), (inputs, Some(ClassId::new(0))));
            assert_eq!(active[..inputs], expected[..inputs]);
        }
        // The random payload differs.
        for index in 0..without.len() - without.noise.len() {
            let mut other = [0; MAX_ACTIVE];
            let shown = without.present(index as u32, &mut other);
            let same = if index < common { index } else { index + few };
            assert_eq!(with.present(same as u32, &mut active), shown);
            assert_eq!(active[..shown.active], other[..shown.active]);
        }
    }

    #[test]
    fn packets_of_a_flow_behind_the_fourth_with_content_are_shown_whole_alone() {
        let layout = Layout::headers(&LayoutOptions::default());
        let slot = |name| layout.slots().iter().position(|slot| slot.name == name).expect("a slot of the built-in layout");
        let (flags, size) = (slot("tcp.flags"), slot("payload.size"));
        let packet = |content: u16| {
            let mut slots = vec![SILENT; layout.slots().len()];
            (slots[flags], slots[size]) = (0x10, content);
            slots
        };
        let packets: Vec<u16> = [0, 0, 0, 1, 1, 1, 1, 1, 1].into_iter().flat_map(packet).collect();
        // How often each packet is shown, whole and without groups of slots.
        let shown = |key| {
            let mut corpus = Corpus::new(key, layout.clone(), vec!["class".into()]);
            corpus.push(ClassId::new(0), &packets);
            let settings = TrainSettings::new(key, 1);
            let teacher = TeachingSchedule::new(&corpus, &settings, 1, |_| Some(ClassId::new(0)));
            let mut counts = [(0, 0); 9];
            for shown in (0..teacher.len() as u32).map(|index| teacher.shown(index)) {
                let (whole, without) = &mut counts[shown.volley];
                *if shown.silent.is_empty() { whole } else { without } += 1;
            }
            counts
        };
        // The groups, and the folded payload bytes.
        let silenced = DROPOUT.len() + 1;
        assert_eq!(shown(KeyKind::Host), [(1, silenced); 9]);
        assert_eq!(shown(KeyKind::Flow), [[(1, silenced); 7].as_slice(), &[(LATER, 0); 2]].concat()[..]);
    }

    #[test]
    fn one_in_two_packets_with_payload_is_shown_with_random_payload_for_no_class() {
        let layout = Layout::headers(&LayoutOptions::default());
        let slot = |name| layout.slots().iter().position(|slot| slot.name == name).expect("a slot of the built-in layout");
        let mut packet = vec![SILENT; layout.slots().len()];
        (packet[slot("udp.srcport[0]")], packet[slot("payload[0]")], packet[slot("payload.folded[15]")]) = (1, 7, 7);
        let mut empty = packet.clone();
        layout.group(Group::Payload).for_each(|slot| empty[slot.index()] = SILENT);
        let shown = |key| {
            let mut corpus = Corpus::new(key, layout.clone(), vec!["class".into()]);
            (0..200).for_each(|_| corpus.push(ClassId::new(0), &packet));
            corpus.push(ClassId::new(0), &empty);
            let settings = TrainSettings::new(key, 1);
            let teacher = TeachingSchedule::new(&corpus, &settings, 1, |_| Some(ClassId::new(0)));
            let mut inputs = [0; MAX_ACTIVE];
            let shown = (0..teacher.len() as u32).map(|index| (teacher.present(index, &mut inputs), inputs));
            let noise = shown.filter(|(presentation, _)| presentation.class.is_none());
            noise.map(|(presentation, inputs)| inputs[..presentation.active].to_vec()).collect::<Vec<_>>()
        };
        assert!(shown(KeyKind::Host).is_empty());
        let noise = shown(KeyKind::Flow);
        assert_eq!(noise.len(), 100);
        let values =
            |slot| noise.iter().flatten().filter(move |&&input| input as usize / 256 == slot).map(|&input| input as usize % 256);
        assert!(values(slot("udp.srcport[0]")).all(|value| value == 1));
        let folded: Vec<usize> = values(slot("payload.folded[15]")).collect();
        assert_eq!(folded.len(), 100);
        let alike = folded.iter().filter(|&&value| value == usize::from(b'x')).count();
        assert!((10..40).contains(&alike), "62 of 256 bytes are letters or digits: {alike}");
        assert!(
            !values(slot("payload.folded[15]")).any(|value| value != usize::from(b'x') && (value as u8).is_ascii_alphanumeric())
        );
    }
}
