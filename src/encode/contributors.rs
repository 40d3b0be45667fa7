//! Contributors of a layout, for explanations: whatever may add to a potential, a slot or a coincidence of two slots.

use super::{Layout, MAX_ACTIVE, SILENT, SlotId, Volley};

impl Layout {
    /// Name and number of each contributor: the slots, then the coincidences.
    pub fn contributors(&self) -> impl Iterator<Item = (String, usize)> + '_ {
        let name = |i: SlotId| self.slots()[i.index()].name.as_str();
        let pairs = self.coincidences().iter().map(move |&(a, b)| format!("{} & {}", name(a), name(b)));
        self.slots().iter().map(|s| s.name.clone()).chain(pairs).enumerate().map(|(i, name)| (name, i))
    }

    /// The inputs that contributor `at` activates in a volley.
    ///
    /// # Panics
    /// If there is no contributor `at`.
    pub fn inputs_of(&self, volley: &Volley, at: usize) -> Vec<u32> {
        let slots = self.slots().len();
        let mut only = Volley::default();
        let pair = at.checked_sub(slots).map(|c| self.coincidences()[c]);
        let (a, b) = pair.unwrap_or_else(|| (SlotId::from_index(at), SlotId::from_index(at)));
        for slot in [a, b] {
            only.slots[slot.index()] = volley.slots[slot.index()];
        }
        match pair {
            None => {
                let mut active = [0; MAX_ACTIVE];
                let n = self.slot_inputs_of(&only, &mut active);
                active[..n].to_vec()
            }
            Some(_) if only.slots[a.index()] == SILENT || only.slots[b.index()] == SILENT => Vec::new(),
            Some(_) => vec![self.coincidence_input(at - slots, only.slots[a.index()], only.slots[b.index()])],
        }
    }

    /// The value of contributor `at` in a volley as text, `a&b` for a coincidence; `None` if it is silent.
    ///
    /// # Panics
    /// If there is no contributor `at`.
    pub fn value_of(&self, volley: &Volley, at: usize) -> Option<String> {
        let value = |slot: SlotId| Some(volley.slots[slot.index()]).filter(|&v| v != SILENT);
        match at.checked_sub(self.slots().len()) {
            None => value(SlotId::from_index(at)).map(|v| v.to_string()),
            Some(c) => {
                let (a, b) = self.coincidences()[c];
                Some(format!("{}&{}", value(a)?, value(b)?))
            }
        }
    }
}
