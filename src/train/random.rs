//! Repeatable random choices.

use rand_chacha::rand_core::Rng;

/// A random number below `count`, by multiply-shift: an unbiased choice is not needed, a repeatable one is.
pub(crate) fn below(count: usize, random: &mut impl Rng) -> usize {
    ((u64::from(random.next_u32()) * count as u64) >> 32) as usize
}
