//! Bounds of logarithms and exponentials without their computation: the bits of a float, taken as an integer, are its logarithm to base 2 with
//! straight lines between the powers of two, and these lines are never far from the curve.

use std::f32::consts::{LN_2, LOG2_E};

/// Steps of the bits of a float from one power of two to the next.
const OCTAVE: f32 = (1 << 23) as f32;

/// What a logarithm is above [`chord_ln`] at most: ln(1 + m) - m ln 2 at m = 1 / ln 2 - 1 is 0.0597.
pub(super) const ABOVE_CHORD: f32 = 0.0600;
/// What rounding may take from a logarithm below [`chord_ln`] at most.
pub(super) const BELOW_CHORD: f32 = 1e-4;

/// The natural logarithm of a normal number, with straight lines between the powers of two.
#[inline]
pub(super) fn chord_ln(x: f32) -> f32 {
    (x.to_bits() as i32 - 1f32.to_bits() as i32) as f32 * (LN_2 / OCTAVE)
}

/// A lower bound of the exponential, at most 7 % below it where that is a normal number; where it is smaller than those, the smallest of them.
#[inline]
pub(super) fn exp_below(x: f32) -> f32 {
    // The straight lines are above the curve, by the factor 1.0615 at most.
    const LEAST_RATIO: f32 = 0.94;
    let octaves = (x * LOG2_E).clamp(-126.0, 127.0);
    LEAST_RATIO * f32::from_bits(((octaves + 127.0) * OCTAVE) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_logarithm_is_near_its_chord(x in prop_oneof![1e-30f32..1.0, 1f32..4.0, 1f32..1e30]) {
            let above = f64::from(x).ln() - f64::from(chord_ln(x));
            prop_assert!(-f64::from(BELOW_CHORD) < above && above < f64::from(ABOVE_CHORD), "{above}");
        }

        #[test]
        fn an_exponential_is_little_above_its_bound(x in prop_oneof![-87f32..88.0, -3f32..3.0]) {
            let (exact, bound) = (f64::from(x).exp(), f64::from(exp_below(x)));
            prop_assert!(bound <= exact && exact * 0.93 <= bound, "{bound} of {exact}");
        }
    }

    #[test]
    fn bounds_of_exponentials_outside_the_range_are_finite() {
        assert_eq!(exp_below(f32::NEG_INFINITY), exp_below(-100.0));
        assert!(exp_below(f32::INFINITY).is_finite() && exp_below(-100.0) < 1e-37);
    }
}
