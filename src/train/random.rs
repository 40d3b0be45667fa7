//! Repeatable random choices.

use rand_chacha::rand_core::Rng;

use crate::encode::{Group, Layout, SILENT};

/// A random number below `count`, by multiply-shift: an unbiased choice is not needed, a repeatable one is.
pub(crate) fn below(count: usize, random: &mut impl Rng) -> usize {
    ((u64::from(random.next_u32()) * count as u64) >> 32) as usize
}

/// Replaces all payload bytes in the slot values of a packet by random ones. Returns whether there are any.
pub(super) fn randomise_payload(layout: &Layout, values: &mut [u16], random: &mut impl Rng) -> bool {
    let mut any = false;
    for slot in layout.group(Group::Payload) {
        let value = &mut values[slot.index()];
        if *value != SILENT {
            *value = layout.payload_value(slot, below(256, random) as u8);
            any = true;
        }
    }
    any
}
