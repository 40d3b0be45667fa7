//! Inhibition by transports: neurons do not fire for packets of a transport over which training did not show their class.
//!
//! STDP depresses a synapse no further than the training packets of other classes ask for. SSDP, which is the text of HTTP over UDP, would be
//! the nearest class of HTTP over TCP where HTTP is unknown.

use std::collections::BTreeSet;

use crate::encode::{Group, Place, SILENT, SlotId};
use crate::snn::{ClassId, NeuronSpec};

use super::Corpus;

/// Headers of which a packet has no more than one.
const TRANSPORTS: [Place; 7] = [Place::Arp, Place::Tcp, Place::Udp, Place::Sctp, Place::Icmp, Place::Icmpv6, Place::Igmp];

/// Sets weights, `[input * specs + spec]`, if streams are recognised by content: at the inputs of the transports that no packet of the neuron's
/// class has, the weight becomes the largest of the neuron, negated. Slots of ports, and masked ones, are left alone. `shown` are the packets of all
/// classes, `(volley, class)`.
pub(super) fn inhibit(corpus: &Corpus, shown: &[(u32, ClassId)], specs: &[NeuronSpec], weights: &mut [f32]) {
    if !corpus.by_content() || specs.is_empty() {
        return;
    }
    let mut largest = vec![0f32; specs.len()];
    for row in weights.chunks_exact(specs.len()) {
        largest.iter_mut().zip(row).for_each(|(largest, weight)| *largest = largest.max(weight.abs()));
    }
    let layout = &corpus.layout;
    for place in TRANSPORTS {
        let slots = layout.places(place).iter().map(|&(slot, _)| slot);
        let inhibits = |slot: &SlotId| !layout.masked().contains(slot) && layout.slots()[slot.index()].group != Group::Ports;
        let slots: Vec<SlotId> = slots.filter(inhibits).collect();
        let has = |volley: u32| slots.iter().any(|slot| corpus.volley(volley as usize)[slot.index()] != SILENT);
        let classes: BTreeSet<ClassId> = shown.iter().filter(|&&(volley, _)| has(volley)).map(|&(_, class)| class).collect();
        for (neuron, _) in specs.iter().enumerate().filter(|(_, spec)| !classes.contains(&spec.class)) {
            for input in slots.iter().flat_map(|&slot| layout.slot_range(slot)) {
                weights[input * specs.len() + neuron] = -largest[neuron];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::{Layout, LayoutOptions};
    use crate::packet::KeyKind;

    #[test]
    fn neurons_are_inhibited_by_transports_that_their_class_lacks() {
        let mut layout = Layout::headers(&LayoutOptions::default());
        layout.mask("sctp").expect("a header with slots");
        let slot = |name| layout.slots().iter().position(|slot| slot.name == name).expect("a slot of the built-in layout");
        let (tcp, udp, sctp) = (slot("tcp.flags"), slot("udp.length[0]"), slot("sctp.chunk[0]"));
        let mut corpus = Corpus::new(KeyKind::Flow, layout.clone(), ["tcp", "udp", "both"].map(String::from).to_vec());
        for (class, used) in [(0, tcp), (1, udp), (2, tcp), (2, udp)] {
            let mut slots = vec![SILENT; layout.slots().len()];
            slots[used] = 7;
            corpus.push(ClassId::new(class), &slots);
        }
        let shown: Vec<_> = (0..corpus.streams.len()).flat_map(|stream| corpus.packets_of(stream)).collect();
        let specs = NeuronSpec::one_each(3);
        let before = [0.5, -0.75, 0.25].repeat(layout.input_count());
        let mut weights = before.clone();
        inhibit(&corpus, &shown, &specs, &mut weights);
        let of = |weights: &[f32], slot: usize, neuron: usize| {
            let inputs = layout.slot_range(SlotId::from_index(slot));
            inputs.map(|input| weights[input * specs.len() + neuron]).collect::<Vec<_>>()
        };
        for (slot, neuron, inhibited) in
            [(udp, 0, Some(-0.5)), (tcp, 1, Some(-0.75)), (udp, 2, None), (tcp, 2, None), (sctp, 0, None)]
        {
            let expected = inhibited.map_or_else(|| of(&before, slot, neuron), |weight: f32| vec![weight; 256]);
            assert_eq!(of(&weights, slot, neuron), expected, "slot {slot} of neuron {neuron}");
        }
    }
}
