//! VLAN identifiers of a frame's tags, outermost first.

/// The VLAN identifiers of the two outermost tags that name a VLAN (IEEE 802.1Q, IEEE 802.1ad), in 24 bits: 12 for the outer one above
/// 12 for the inner one, 0 where there is none. Priority tags (identifier 0) name no VLAN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VlanTags([u8; 3]);

impl VlanTags {
    /// No VLAN.
    pub const NONE: Self = Self([0; 3]);
    /// Bits of an identifier.
    const ID_MASK: u32 = 0x0fff;
    const ID_BITS: u32 = 12;

    /// The identifiers as a number of 24 bits.
    #[inline]
    pub(super) const fn bits(self) -> u32 {
        let [high, middle, low] = self.0;
        u32::from_be_bytes([0, high, middle, low])
    }

    const fn from_bits(bits: u32) -> Self {
        let [_, high, middle, low] = bits.to_be_bytes();
        Self([high, middle, low])
    }

    /// These identifiers with that of the next tag. Tags below the second that names a VLAN are left out.
    #[must_use]
    pub fn with(self, id: u16) -> Self {
        let (outer, inner) = (self.bits() >> Self::ID_BITS, self.bits() & Self::ID_MASK);
        let id = u32::from(id) & Self::ID_MASK;
        match (outer, inner) {
            (0, _) => Self::from_bits(id << Self::ID_BITS),
            (outer, 0) => Self::from_bits(outer << Self::ID_BITS | id),
            _ => self,
        }
    }

    /// The identifiers, outermost first.
    pub fn ids(self) -> impl Iterator<Item = u16> + Clone {
        let ids = [self.bits() >> Self::ID_BITS, self.bits() & Self::ID_MASK];
        ids.into_iter().filter(|&id| id != 0).map(|id| id as u16)
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
    fn the_two_outermost_identifiers_are_kept_in_order() {
        let of = |tags: &[u16]| tags.iter().fold(VlanTags::NONE, |vlans, &id| vlans.with(id)).ids().collect::<Vec<_>>();
        assert!(of(&[]).is_empty());
        assert_eq!(of(&[0, 7]), [7], "a priority tag");
        assert_eq!(of(&[0xfff, 0, 1]), [0xfff, 1]);
        assert_eq!(of(&[500, 11, 12]), [500, 11]);
    }
}
