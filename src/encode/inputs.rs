//! Coding: the slot values of a volley to the active inputs of a network.
//!
//! Inputs are numbered slot by slot, then come the coincidence inputs.

use super::vector::{self, MIX, MULTIPLY, PARTS, PAYLOAD, PORTS};
use super::{Coding, Layout, MAX_ACTIVE, SILENT, Volley, layout::ALL_BITS, layout::GroupInputs};

/// A list of inputs.
#[derive(Clone, Debug)]
pub(super) struct InputList {
    pub inputs: [u32; MAX_ACTIVE],
    pub count: usize,
}

impl InputList {
    const EMPTY: Self = Self { inputs: [0; MAX_ACTIVE], count: 0 };

    fn as_slice(&self) -> &[u32] {
        &self.inputs[..self.count]
    }
}

/// The active inputs of one volley, and which of them depend on a part of the packet.
#[derive(Clone, Debug)]
pub struct ActiveInputs {
    all: InputList,
    /// Those that depend on each part.
    parts: [InputList; PARTS],
    content: bool,
}

impl Default for ActiveInputs {
    fn default() -> Self {
        Self { all: InputList::EMPTY, parts: [InputList::EMPTY; PARTS], content: true }
    }
}

impl ActiveInputs {
    /// These inputs, of a packet with content, as if none depended on its ports or payload.
    #[cfg(test)]
    pub fn of(inputs: &[u32]) -> Self {
        let mut active = Self::default();
        active.all.inputs[..inputs.len()].copy_from_slice(inputs);
        active.all.count = inputs.len();
        active
    }

    /// All of them.
    pub fn all(&self) -> &[u32] {
        self.all.as_slice()
    }

    /// Those that depend on the packet's ports: of the port slots and of the coincidences that involve a port. None with dual-rail coding.
    pub fn ports(&self) -> &[u32] {
        self.parts[PORTS].as_slice()
    }

    /// The same of the payload bytes behind ports. The payload of a transport without ports is none: its header shows what it carries.
    pub fn payload(&self) -> &[u32] {
        if self.parts[PORTS].count > 0 { self.parts[PAYLOAD].as_slice() } else { &[] }
    }

    /// Whether the packet has content: [`Volley::content`].
    pub fn has_content(&self) -> bool {
        self.content
    }
}

impl Layout {
    /// Writes the active inputs of a volley into `active` and returns their number.
    #[inline]
    pub fn inputs(&self, volley: &Volley, active: &mut [u32; MAX_ACTIVE]) -> usize {
        self.inputs_wide(volley, active, None).unwrap_or_else(|| self.inputs_plain(volley, active))
    }

    /// Finds the active inputs of a volley, and those of its ports and payload.
    #[inline]
    pub fn inputs_by_part(&self, volley: &Volley, active: &mut ActiveInputs) {
        active.content = volley.content;
        match self.inputs_wide(volley, &mut active.all.inputs, Some(&mut active.parts)) {
            Some(count) => active.all.count = count,
            None => self.inputs_by_part_plain(volley, active),
        }
    }

    /// [`vector::inputs`]; `None` with dual-rail coding.
    #[inline]
    fn inputs_wide(
        &self,
        volley: &Volley,
        active: &mut [u32; MAX_ACTIVE],
        parts: Option<&mut [InputList; PARTS]>,
    ) -> Option<usize> {
        let (base, bits) = (self.coincidences_at(), self.data.coincidence_bits);
        let one_hot = self.data.coding == Coding::OneHot;
        one_hot.then(|| vector::inputs(&volley.slots, &self.chunks, base, bits, active, parts)).flatten()
    }

    /// [`Layout::inputs_by_part`] as plain loops.
    pub(super) fn inputs_by_part_plain(&self, volley: &Volley, active: &mut ActiveInputs) {
        active.all.count = self.inputs_plain(volley, &mut active.all.inputs);
        let shape = &self.shapes[volley.shape.0 as usize];
        for (part, group) in [(PORTS, &shape.ports), (PAYLOAD, &shape.payload)] {
            let list = &mut active.parts[part];
            list.count = self.inputs_of_group(group, volley, &mut list.inputs);
        }
    }

    /// [`Layout::inputs`] as a plain loop.
    pub(super) fn inputs_plain(&self, volley: &Volley, active: &mut [u32; MAX_ACTIVE]) -> usize {
        let mut n = self.slot_inputs_of(volley, active);
        for &(i, a, b) in &self.shapes[volley.shape.0 as usize].coincidences {
            let (va, vb) = (volley.slots[a.index()], volley.slots[b.index()]);
            active[n] = self.coincidence_input(i as usize, va, vb);
            n += usize::from(va != SILENT && vb != SILENT);
        }
        n
    }

    /// Writes the active inputs of the slots into `active` and returns their number.
    #[inline]
    pub(super) fn slot_inputs_of(&self, volley: &Volley, active: &mut [u32; MAX_ACTIVE]) -> usize {
        let mut n = 0;
        for &slot in &self.shapes[volley.shape.0 as usize].slots {
            let value = volley.slots[slot.index()];
            let number = u32::from(u16::from(slot));
            match self.data.coding {
                Coding::OneHot => {
                    active[n] = number << 8 | u32::from(value & 0xff);
                    n += usize::from(value != SILENT);
                }
                Coding::DualRail if value != SILENT => {
                    for bit in u32::from(ALL_BITS - self.data.slots[slot.index()].bits.min(ALL_BITS))..8 {
                        active[n] = number * 16 + bit * 2 + u32::from(value >> (7 - bit) & 1);
                        n += 1;
                    }
                }
                Coding::DualRail => {}
            }
        }
        n
    }

    /// Number of the first coincidence input.
    fn coincidences_at(&self) -> u32 {
        (self.data.slots.len() * self.slot_inputs()) as u32
    }

    /// The input of the two values of coincidence `pair`. Other values and pairs with the same hash share it.
    #[inline]
    pub(super) fn coincidence_input(&self, pair: usize, a: u16, b: u16) -> u32 {
        self.coincidences_at() + (coincidence_hash(pair as u32, a, b) >> (32 - self.data.coincidence_bits))
    }

    #[inline]
    fn inputs_of_group(&self, group: &GroupInputs, volley: &Volley, active: &mut [u32; MAX_ACTIVE]) -> usize {
        let mut n = 0;
        for &slot in &group.slots {
            let value = volley.slots[slot.index()];
            active[n] = (slot.index() as u32) << 8 | u32::from(value & 0xff);
            n += usize::from(value != SILENT);
        }
        for &(i, a, b) in &group.coincidences {
            let (va, vb) = (volley.slots[a.index()], volley.slots[b.index()]);
            active[n] = self.coincidence_input(i as usize, va, vb);
            n += usize::from(va != SILENT && vb != SILENT);
        }
        n
    }

    /// The active inputs of a word, for a layout from [`Layout::paper_word`].
    pub fn word(&self, word: u16) -> Vec<u32> {
        let (mut volley, mut active) = (Volley::default(), [0; MAX_ACTIVE]);
        (volley.slots[0], volley.slots[1]) = (word >> 8, word & 0xff);
        let n = self.inputs(&volley, &mut active);
        active[..n].to_vec()
    }
}

/// Hash of a pair's number and its two values by multiplicative mixing; the top bits are used.
#[inline]
fn coincidence_hash(pair: u32, a: u16, b: u16) -> u32 {
    let x = pair << 16 | u32::from(a & 0xff) << 8 | u32::from(b & 0xff);
    let x = (x ^ MIX).wrapping_mul(MULTIPLY[0]);
    (x ^ x >> 15).wrapping_mul(MULTIPLY[1])
}
