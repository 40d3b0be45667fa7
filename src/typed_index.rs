//! Index types: integers that number one kind of thing, so that a class cannot be passed in place of a neuron.
//!
//! `typed_index!` defines one over an unsigned integer. Each is in the module that gives it its meaning.

/// Defines a public index type over an unsigned integer.
macro_rules! typed_index {
    ($(#[$attribute:meta])* $name:ident($raw:ty)) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name($raw);

        #[allow(dead_code, reason = "each index type uses some of these")]
        impl $name {
            /// The index with a number.
            #[inline(always)]
            pub const fn new(number: $raw) -> Self {
                Self(number)
            }

            /// The index of a position in a slice.
            ///
            /// # Panics
            /// If the position is larger than the type can number.
            #[inline(always)]
            pub const fn from_index(index: usize) -> Self {
                assert!(index <= <$raw>::MAX as usize, "an index out of range");
                Self(index as $raw)
            }

            /// The first `count` indices, in order.
            pub fn first(count: usize) -> impl DoubleEndedIterator<Item = Self> + ExactSizeIterator + Clone {
                (0..count).map(Self::from_index)
            }

            /// The position in a slice.
            #[inline(always)]
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl From<$raw> for $name {
            #[inline(always)]
            fn from(number: $raw) -> Self {
                Self(number)
            }
        }

        impl From<$name> for $raw {
            #[inline(always)]
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl From<$name> for usize {
            #[inline(always)]
            fn from(id: $name) -> Self {
                id.index()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

pub(crate) use typed_index;
