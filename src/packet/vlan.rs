//! VLAN identifiers of a frame's tags, outermost first.

/// The VLAN identifiers of the three outermost tags that name a VLAN (IEEE 802.1Q, IEEE 802.1ad), in 36 bits: 12 for each, the outermost
/// highest, 0 where there is none. Priority tags (identifier 0) name no VLAN. Suricata keeps three too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VlanTags([u8; 5]);

impl VlanTags {
    /// No VLAN.
    pub const NONE: Self = Self([0; 5]);
    /// Bits of an identifier.
    const ID_MASK: u64 = 0x0fff;
    /// Where the identifiers are, outermost first.
    const SHIFTS: [u32; 3] = [24, 12, 0];

    /// The identifiers as a number of 36 bits.
    #[inline]
    pub(super) const fn bits(self) -> u64 {
        // The first four bytes are read as they are copied: a processor can't forward a store to a load of another place.
        let [a, b, c, d, high] = self.0;
        (high as u64) << 32 | u32::from_le_bytes([a, b, c, d]) as u64
    }

    /// These identifiers with that of the next tag. Tags below the third that names a VLAN are left out.
    #[must_use]
    pub fn with(self, id: u16) -> Self {
        let bits = self.bits();
        let free = Self::SHIFTS.into_iter().find(|&shift| bits >> shift & Self::ID_MASK == 0);
        let Some(shift) = free else { return self };
        let [a, b, c, d, high, ..] = (bits | (u64::from(id) & Self::ID_MASK) << shift).to_le_bytes();
        Self([a, b, c, d, high])
    }

    /// The identifiers, outermost first.
    pub fn ids(self) -> impl Iterator<Item = u16> + Clone {
        let bits = self.bits();
        Self::SHIFTS.into_iter().map(move |shift| (bits >> shift & Self::ID_MASK) as u16).filter(|&id| id != 0)
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self == Self::NONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_outermost_identifiers_are_kept_in_order() {
        let of = |tags: &[u16]| tags.iter().fold(VlanTags::NONE, |vlans, &id| vlans.with(id)).ids().collect::<Vec<_>>();
        assert!(of(&[]).is_empty());
        assert_eq!(of(&[0, 7]), [7], "a priority tag");
        assert_eq!(of(&[0xfff, 0, 1]), [0xfff, 1]);
        assert_eq!(of(&[500, 11, 12]), [500, 11, 12]);
        assert_eq!(of(&[500, 0xfff, 12, 13]), [500, 0xfff, 12]);
    }
}
