//! Inhibition by transports: neurons are inhibited by packets of a transport over which training did not show their class.
//!
//! STDP depresses a synapse no further than the training packets of other classes ask for. SSDP, which is the text of HTTP over UDP, would be
//! the nearest class of HTTP over TCP where HTTP is unknown.

use std::collections::BTreeSet;

use crate::encode::{Place, SlotId};
use crate::snn::{ClassId, NeuronSpec, largest_weights};

use super::Corpus;

/// Fields of the number of the IP protocol, as a header and the offset in it (RFC 791 section 3.1, RFC 8200 section 3).
const FIELDS: [(Place, u16); 2] = [(Place::Ipv4, 9), (Place::Ipv6, 6)];

/// IP protocols that inhibit, by their number: ICMP, IGMP, TCP, UDP, ICMPv6, SCTP.
const TRANSPORTS: [u16; 6] = [1, 2, 6, 17, 58, 132];

/// Sets weights, `[input * specs + spec]`, if streams are recognised by content: at the inputs of an IP protocol that no packet of the neuron's
/// class has, over IPv4 or IPv6, the weight becomes the largest of the neuron, negated. `shown` are the packets of all classes,
/// `(volley, class)`.
pub(super) fn inhibit(corpus: &Corpus, shown: &[(u32, ClassId)], specs: &[NeuronSpec], weights: &mut [f32]) {
    let layout = &corpus.layout;
    let slot_of =
        |&(place, at): &(Place, u16)| layout.places(place).iter().find(|(_, offset)| *offset == at).map(|&(slot, _)| slot);
    let slots: Vec<SlotId> = FIELDS.iter().filter_map(slot_of).filter(|slot| !layout.masked().contains(slot)).collect();
    if !corpus.by_content() || slots.is_empty() || specs.is_empty() {
        return;
    }
    let largest = largest_weights(weights, specs.len());
    for transport in TRANSPORTS {
        let over = |volley: u32| slots.iter().any(|slot| corpus.volley(volley as usize)[slot.index()] == transport);
        let classes: BTreeSet<ClassId> = shown.iter().filter(|&&(volley, _)| over(volley)).map(|&(_, class)| class).collect();
        for (neuron, _) in specs.iter().enumerate().filter(|(_, spec)| !classes.contains(&spec.class)) {
            for input in slots.iter().filter_map(|&slot| layout.input(slot, transport)) {
                weights[input * specs.len() + neuron] = -largest[neuron];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::{Layout, LayoutOptions, SILENT};
    use crate::packet::KeyKind;

    #[test]
    fn neurons_are_inhibited_by_transports_that_their_class_lacks() {
        const TCP: u16 = 6;
        const UDP: u16 = 17;
        const GRE: u16 = 47;
        let layout = Layout::headers(&LayoutOptions::default());
        let slot = |name| layout.slots().iter().position(|slot| slot.name == name).map(SlotId::from_index).expect("a slot");
        let (ipv4, ipv6) = (slot("ip.proto"), slot("ipv6.nxt"));
        let mut corpus = Corpus::new(KeyKind::Flow, layout.clone(), ["tcp", "udp", "both"].map(String::from).to_vec());
        for (class, version, transport) in [(0, ipv4, TCP), (1, ipv6, UDP), (2, ipv4, TCP), (2, ipv4, UDP)] {
            let mut slots = vec![SILENT; layout.slots().len()];
            slots[version.index()] = transport;
            corpus.push(ClassId::new(class), &slots);
        }
        let shown: Vec<_> = (0..corpus.streams.len()).flat_map(|stream| corpus.packets_of(stream)).collect();
        let specs = NeuronSpec::one_each(3);
        let before = [0.5, -0.75, 0.25];
        let mut weights = before.repeat(layout.input_count());
        inhibit(&corpus, &shown, &specs, &mut weights);
        for version in [ipv4, ipv6] {
            for (transport, expected) in [(TCP, [0.5, -0.75, 0.25]), (UDP, [-0.5, -0.75, 0.25]), (GRE, before)] {
                let input = layout.input(version, transport).expect("one-hot coding");
                assert_eq!(weights[input * specs.len()..][..specs.len()], expected, "IP protocol {transport}");
            }
        }
        let sctp = layout.input(ipv4, 132).expect("one-hot coding");
        assert_eq!(weights[sctp * specs.len()..][..specs.len()], [-0.5, -0.75, -0.25], "no class has it");
    }
}
