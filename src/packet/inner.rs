//! What a header leads to: the result of every parser of wrappings, and readers of fields with bounds checks.

use etherparse::{EtherType, Ethernet2Header};

use super::headers::Link;

/// Why a header leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unopened {
    /// The frame ends within the header.
    Truncated,
    /// The header is followed by something other than a packet, or by something unknown.
    NoPacket,
}

/// The result of a parser of one kind of header.
pub(super) type Opened = Result<Inner, Unopened>;

/// What follows a header: a network header, or a tag in front of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Inner {
    /// The link header that holds the MAC addresses, and its offset; `None` keeps the outer one.
    pub link: Option<(Link, usize)>,
    pub ether_type: EtherType,
    /// Offset of what the EtherType names.
    pub at: usize,
}

impl Inner {
    /// A payload of this EtherType, without a link header of its own.
    pub fn typed(ether_type: EtherType, at: usize) -> Self {
        Self { link: None, ether_type, at }
    }

    /// An Ethernet frame at `at`.
    pub fn ethernet(frame: &[u8], at: usize) -> Opened {
        let ether_type = ether_type_at(frame, at + 12)?;
        Ok(Self { link: Some((Link::Ethernet, at)), ether_type, at: at + Ethernet2Header::LEN })
    }

    /// An IP packet at `at`, by its version.
    pub fn ip(frame: &[u8], at: usize) -> Opened {
        match byte(frame, at)? >> 4 {
            4 => Ok(Self::typed(EtherType::IPV4, at)),
            6 => Ok(Self::typed(EtherType::IPV6, at)),
            _ => Err(Unopened::NoPacket),
        }
    }

    /// The same with this link header, unless it has one of its own.
    pub fn within(self, link: Link, at: usize) -> Self {
        Self { link: self.link.or(Some((link, at))), ..self }
    }
}

pub(super) fn byte(frame: &[u8], at: usize) -> Result<u8, Unopened> {
    frame.get(at).copied().ok_or(Unopened::Truncated)
}

/// The `N` bytes at `at`.
pub(super) fn bytes<const N: usize>(frame: &[u8], at: usize) -> Result<[u8; N], Unopened> {
    frame.get(at..).and_then(|rest| rest.first_chunk()).copied().ok_or(Unopened::Truncated)
}

pub(super) fn be16(frame: &[u8], at: usize) -> Result<u16, Unopened> {
    Ok(u16::from_be_bytes(bytes(frame, at)?))
}

pub(super) fn be32(frame: &[u8], at: usize) -> Result<u32, Unopened> {
    Ok(u32::from_be_bytes(bytes(frame, at)?))
}

pub(super) fn le16(frame: &[u8], at: usize) -> Result<u16, Unopened> {
    Ok(u16::from_le_bytes(bytes(frame, at)?))
}

pub(super) fn le32(frame: &[u8], at: usize) -> Result<u32, Unopened> {
    Ok(u32::from_le_bytes(bytes(frame, at)?))
}

pub(super) fn ether_type_at(frame: &[u8], at: usize) -> Result<EtherType, Unopened> {
    be16(frame, at).map(EtherType)
}

/// `Ok` if the condition holds, so that parsers can check fields with `?`.
pub(super) fn require(condition: bool) -> Result<(), Unopened> {
    if condition { Ok(()) } else { Err(Unopened::NoPacket) }
}
