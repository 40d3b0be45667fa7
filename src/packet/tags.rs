//! Tags between link header and payload: VLAN, Cisco metadata, MACsec, HSR, VN-Tag, and the tags of switch chips (DSA).

use etherparse::{EtherType, Ethernet2Header, MacsecHeaderSlice, MacsecPType};

use super::headers::Link;
use super::inner::{Inner, Opened, Unopened, be16, bytes, ether_type_at, require};

/// VLAN tags of pre-standard switches, beside those that etherparse names.
const VLAN_9200: EtherType = EtherType(0x9200);
const VLAN_9300: EtherType = EtherType(0x9300);
/// Bytes of a VLAN tag (IEEE 802.1Q), and the bits of its identifier.
const VLAN_LEN: usize = 4;
const VLAN_ID_MASK: u16 = 0x0fff;
/// Cisco metadata (TrustSec security group tag), and its bytes with the EtherType that follows.
const CISCO_METADATA: EtherType = EtherType(0x8909);
const CISCO_METADATA_LEN: usize = 8;
/// High-availability Seamless Redundancy (IEC 62439-3), and its bytes with the EtherType that follows.
const HSR: EtherType = EtherType(0x892f);
const HSR_LEN: usize = 6;
/// VN-Tag (IEEE 802.1BR's predecessor), and its bytes with the EtherType that follows.
const VN_TAG: EtherType = EtherType(0x8926);
const VN_TAG_LEN: usize = 6;
/// Backbone service instance tag (IEEE 802.1ah), and its bytes before the customer's frame.
pub(super) const BACKBONE: EtherType = EtherType(0x88e7);
const BACKBONE_LEN: usize = 4;
/// Bytes of MAC addresses before a switch chip's tag; of Broadcom's tag, of Marvell's DSA tag and of its form with an EtherType.
const MACS_LEN: usize = 12;
const BROADCOM_LEN: usize = 4;
const EDSA_LEN: usize = 8;
/// The bit of Marvell's tag in the first byte that it stands for a VLAN tag.
const DSA_TAGGED: u8 = 0x20;

/// A tag: the VLAN identifier, 0 if it has none, and what follows.
pub(super) struct Tag {
    pub vlan: u16,
    pub inner: Inner,
}

/// The tag that `ether_type` names at `at`; `None` if it names no tag.
pub(super) fn tag(frame: &[u8], ether_type: EtherType, at: usize) -> Option<Result<Tag, Unopened>> {
    let untagged = |inner: Opened| inner.map(|inner| Tag { vlan: 0, inner });
    let skip = |length: usize| ether_type_at(frame, at + length - 2).map(|next| Inner::typed(next, at + length));
    Some(match ether_type {
        EtherType::VLAN_TAGGED_FRAME
        | EtherType::PROVIDER_BRIDGING
        | EtherType::VLAN_DOUBLE_TAGGED_FRAME
        | VLAN_9200
        | VLAN_9300 => be16(frame, at).and_then(|tag| Ok(Tag { vlan: tag & VLAN_ID_MASK, inner: skip(VLAN_LEN)? })),
        CISCO_METADATA => untagged(skip(CISCO_METADATA_LEN)),
        HSR => untagged(skip(HSR_LEN)),
        VN_TAG => untagged(skip(VN_TAG_LEN)),
        EtherType::MACSEC => untagged(macsec(frame, at)),
        _ => return None,
    })
}

/// A MACsec tag (IEEE 802.1AE) of a frame that is authenticated and not encrypted.
fn macsec(frame: &[u8], at: usize) -> Opened {
    let header = MacsecHeaderSlice::from_slice(frame.get(at..).unwrap_or(&[])).map_err(|_| Unopened::Truncated)?;
    match header.ptype() {
        MacsecPType::Unmodified(next) => Ok(Inner::typed(next, at + header.header_len())),
        _ => Err(Unopened::NoPacket),
    }
}

/// The customer's frame behind a backbone service instance tag.
pub(super) fn backbone(frame: &[u8], at: usize) -> Opened {
    Inner::ethernet(frame, at + BACKBONE_LEN)
}

/// An Ethernet frame whose addresses are followed by Broadcom's tag.
pub(super) fn broadcom(frame: &[u8], at: usize) -> Opened {
    behind_macs(frame, at, BROADCOM_LEN)
}

/// An Ethernet frame behind Broadcom's tag.
pub(super) fn broadcom_prepended(frame: &[u8], at: usize) -> Opened {
    Inner::ethernet(frame, at + BROADCOM_LEN)
}

/// An Ethernet frame whose addresses are followed by Marvell's tag, which stands in for a VLAN tag or comes before the EtherType.
pub(super) fn marvell(frame: &[u8], at: usize) -> Opened {
    let [first, ..]: [u8; 4] = bytes(frame, at + MACS_LEN)?;
    // The mode in the two upper bits: 0 and 3 are frames to and from the processor and between switches.
    require(matches!(first >> 6, 0 | 1 | 3) || first & DSA_TAGGED != 0)?;
    behind_macs(frame, at, VLAN_LEN)
}

/// As [`marvell`], behind an EtherType of its own.
pub(super) fn marvell_ether_typed(frame: &[u8], at: usize) -> Opened {
    behind_macs(frame, at, EDSA_LEN)
}

fn behind_macs(frame: &[u8], at: usize, tag: usize) -> Opened {
    let ether_type = ether_type_at(frame, at + MACS_LEN + tag)?;
    Ok(Inner { link: Some((Link::Ethernet, at)), ether_type, at: at + Ethernet2Header::LEN + tag })
}
