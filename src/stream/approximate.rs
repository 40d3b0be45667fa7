//! Approximate logarithm and exponential: the bits of a float, taken as an integer, are its logarithm to base 2 with straight lines between
//! the powers of two, and these lines are never far from the curve. No library function is called, so the result is the same on all machines.

use std::f32::consts::{LN_2, LOG2_E};

/// Steps of the bits of a float from one power of two to the next.
const OCTAVE: f32 = (1 << 23) as f32;
/// Bits of the fraction of a float.
const FRACTION: u32 = (1 << 23) - 1;

/// The natural logarithm of a positive normal number, within 0.0007.
#[inline(always)]
pub(super) fn ln(x: f32) -> f32 {
    // What the curve is above the line, log2(1 + m) - m, is close to m (1 - m) times a line that is fitted to it.
    const ABOVE: [f32; 2] = [0.422_865, -0.159_22];
    let line = (x.to_bits() as i32 - 1f32.to_bits() as i32) as f32 * (1.0 / OCTAVE);
    let m = (x.to_bits() & FRACTION) as f32 * (1.0 / OCTAVE);
    (line + m * (1.0 - m) * (ABOVE[0] + ABOVE[1] * m)) * LN_2
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
        fn a_logarithm_is_near_the_exact_one_and_increases(x in prop_oneof![1e-30f32..1.0, 1f32..4.0, 1f32..1e30]) {
            let error = f64::from(ln(x)) - f64::from(x).ln();
            prop_assert!(error.abs() < 7e-4, "{error}");
            prop_assert!(ln(x * 1.001) > ln(x));
        }

        #[test]
        fn an_exponential_is_little_above_its_bound(x in prop_oneof![-87f32..88.0, -3f32..3.0]) {
            let (exact, bound) = (f64::from(x).exp(), f64::from(exp_below(x)));
            prop_assert!(bound <= exact && exact * 0.93 <= bound, "{bound} of {exact}");
        }
    }

    #[test]
    fn logarithms_of_powers_of_two_are_exact() {
        for power in 0..60u8 {
            assert_eq!(ln(f32::from(power).exp2()), f32::from(power) * LN_2);
        }
    }

    #[test]
    fn bounds_of_exponentials_outside_the_range_are_finite() {
        assert_eq!(exp_below(f32::NEG_INFINITY), exp_below(-100.0));
        assert!(exp_below(f32::INFINITY).is_finite() && exp_below(-100.0) < 1e-37);
    }
}
