//! What does a network say of a stream whose volleys are known?

use crate::encode::{Layout, MAX_ACTIVE, Volley};
use crate::snn::Network;
use crate::stream::{Decision, Leader};

/// Who leads when scoring stops, as in reading; the slots that `layout` silences are silent. `volleys`: slot values, `[slot]` each.
pub fn said<'a>(
    network: &Network,
    decision: &Decision,
    layout: &Layout,
    volleys: impl Iterator<Item = &'a [u16]>,
) -> Option<Leader> {
    let (mut potentials, mut evidence) = (network.buffer(), vec![0f32; network.neurons()]);
    let (mut active, mut volley, mut leader) = ([0u32; MAX_ACTIVE], Volley::default(), None);
    for slots in volleys {
        volley.slots[..slots.len()].copy_from_slice(slots);
        layout.silence(&mut volley.slots);
        let n = layout.inputs(&volley, &mut active);
        network.potentials(&active[..n], &mut potentials);
        leader = decision.hear(network, &potentials, &mut evidence, leader.as_ref());
        if leader.is_some_and(|l| decision.settled(&l)) {
            break;
        }
    }
    leader
}
