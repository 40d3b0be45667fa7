//! Encoding of packets: a packet's header bytes become one volley, the set of input neurons that spike at the same instant.
//!
//! Input: a frame, its [`Headers`] and what its stream knows ([`Context`]). Output: a [`Volley`] of slot values, which [`Layout::inputs`]
//! turns into the active inputs of a network.

mod content;
mod contributors;
mod frame;
mod header_layout;
mod icmp;
mod inputs;
mod layout;
mod permute;
mod vector;

pub use content::has_content;
pub use frame::{FOLDED, is_ephemeral};
pub use header_layout::{LayoutOptions, MAX_PAYLOAD};
pub use inputs::ActiveInputs;
pub use layout::{Coding, Group, Layout, LayoutError, MAX_ACTIVE, MAX_SLOTS, Place, Slot, SlotId};

use crate::packet::{Headers, Network, Transport};

/// What a stream knows when one of its packets arrives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// 0: sent by the flow's first sender or by the host itself; 1: the other direction.
    pub direction: u8,
    /// Packets of the stream before this one, saturating at 255.
    pub position: u8,
    /// [`length_bucket`] of the previous packet's payload, with its direction in the top bit; [`NO_PREVIOUS`] for the first packet.
    pub previous: u8,
}

impl Context {
    /// The context of a stream's first packet.
    pub fn first(direction: u8) -> Self {
        Self { direction, position: 0, previous: NO_PREVIOUS }
    }
}

/// [`Context::previous`] of a stream's first packet.
pub const NO_PREVIOUS: u8 = 255;

/// A slot without a value: none of its inputs spikes.
pub const SILENT: u16 = 0xffff;

/// One volley: the value of each slot of the layout, a byte or [`SILENT`]. The inputs of the values spike at the same instant.
#[derive(Clone, Copy)]
pub struct Volley {
    /// Slot values, `[slot]`; those beyond the layout's slots are unused.
    pub slots: [u16; MAX_SLOTS],
    /// Which slots may have a value.
    shape: Shape,
    /// Whether the packet shows what its stream carries: every packet except a TCP segment without payload.
    pub content: bool,
}

/// The headers of a packet, as an index into what a layout may activate: 0 for any, else 1 + a number for the network and transport header.
#[derive(Clone, Copy, Debug)]
struct Shape(u8);

impl Shape {
    /// Any headers.
    const ANY: Self = Self(0);
    /// Number of shapes.
    const COUNT: usize = 1 + Network::COUNT * Transport::COUNT;

    fn of(headers: &Headers) -> Self {
        Self((1 + headers.network as usize * Transport::COUNT + headers.transport as usize) as u8)
    }
}

impl Volley {
    /// Number of words that [`Volley::store`] writes for a layout of `slots` slots.
    pub(crate) fn words(slots: usize) -> usize {
        slots + 1
    }

    /// Writes the volley to `words`.
    pub(crate) fn store(&self, words: &mut [u16]) {
        if let Some((last, slots)) = words.split_last_mut() {
            slots.copy_from_slice(&self.slots[..slots.len()]);
            *last = u16::from(self.content) << 8 | u16::from(self.shape.0);
        }
    }

    /// The volley that was written to `words`.
    pub(crate) fn load(words: &[u16]) -> Self {
        let mut volley = Self::default();
        if let Some((&last, slots)) = words.split_last() {
            volley.slots[..slots.len()].copy_from_slice(slots);
            (volley.content, volley.shape) = (last >> 8 != 0, Shape(last as u8));
        }
        volley
    }
}

impl Default for Volley {
    fn default() -> Self {
        Self { slots: [SILENT; MAX_SLOTS], shape: Shape::ANY, content: true }
    }
}

/// Bucket of a length in bytes, four per doubling: 0 for 0 bytes, else 1 + floor(4 log2(length)), at most 64.
pub fn length_bucket(length: u32) -> u8 {
    if length == 0 {
        return 0;
    }
    let octave = 31 - length.leading_zeros();
    // The two bits below the leading one choose the quarter of the octave.
    let quarter = if octave >= 2 { (length >> (octave - 2)) & 3 } else { (length << (2 - octave)) & 3 };
    (1 + octave * 4 + quarter).min(64) as u8
}

/// [`Context::previous`] of the next packet: the [`length_bucket`] of this packet's payload and its direction.
pub fn previous_of(size: u8, direction: u8) -> u8 {
    size | (direction & 1) << 7
}

#[cfg(test)]
mod tests {
    use super::{Shape, Volley, length_bucket};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_stored_volley_is_loaded_as_it_was(slots in prop::collection::vec(any::<u16>(), 1..super::MAX_SLOTS), shape: u8, content: bool) {
            let mut volley = Volley { shape: Shape(shape), content, ..Volley::default() };
            volley.slots[..slots.len()].copy_from_slice(&slots);
            let mut words = vec![0; Volley::words(slots.len())];
            volley.store(&mut words);
            let loaded = Volley::load(&words);
            prop_assert_eq!((loaded.slots, loaded.shape.0, loaded.content), (volley.slots, shape, content));
        }
    }

    #[test]
    fn length_buckets_grow_four_an_octave() {
        assert_eq!(length_bucket(0), 0);
        assert_eq!(length_bucket(1), 1);
        assert_eq!(length_bucket(2), 5);
        assert_eq!(length_bucket(4), 9);
        assert_eq!(length_bucket(5), 10);
        assert_eq!(length_bucket(u32::MAX), 64);
        assert!((1..70000).all(|l| length_bucket(l) <= length_bucket(l + 1)));
    }
}
