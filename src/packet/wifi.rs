//! IEEE 802.11 data frames, and the headers that capturing hosts put in front of them: radiotap, PPI, Prism, AVS.

use super::headers::Link;
use super::inner::{Opened, Unopened, be32, byte, bytes, le16, le32, require};
use super::llc;

/// Frame control, first byte: bits of version and type, and the type of data frames; subtypes with quality of service and without data.
const VERSION_TYPE_MASK: u8 = 0x0f;
const DATA: u8 = 0x08;
const QOS: u8 = 0x80;
const NO_DATA: u8 = 0x40;
/// Frame control, second byte: to and from the distribution system, and "+HTC/order".
pub(super) const TO_DS: u8 = 0x01;
pub(super) const FROM_DS: u8 = 0x02;
const ORDER: u8 = 0x80;
/// Bytes of a data header, of the fourth address, of quality of service and of high-throughput control.
const HEADER_LEN: usize = 24;
const ADDRESS_LEN: usize = 6;
const QOS_LEN: usize = 2;
const HT_LEN: usize = 4;
/// Offset of the fragment number, which is in the first byte of sequence control, or in the second where bytes are swapped; and its bits.
const FRAGMENT_AT: usize = 22;
const SWAPPED_FRAGMENT_AT: usize = 23;
const FRAGMENT_MASK: u8 = 0x0f;
/// The bit of aggregated service data units in quality of service, and bytes before the first one's LLC header.
const AGGREGATED: u8 = 0x80;
const SUBFRAME_LEN: usize = 14;
/// Radiotap: the bit of further presence words; the fields timestamp (8 bytes, aligned) and flags; the flag of padding to 32 bits.
const RADIOTAP_PRESENT_AT: usize = 4;
const RADIOTAP_MORE: u32 = 1 << 31;
const RADIOTAP_TIMESTAMP: u32 = 1;
const RADIOTAP_FLAGS: u32 = 2;
const RADIOTAP_DATA_PAD: u8 = 0x20;
const RADIOTAP_MAX_PRESENT: usize = 32;
/// Prism: the length of its header lies behind a message code; AVS begins with a magic number, whose last digit is a version.
const PRISM_MESSAGES: [u32; 2] = [0x41, 0x44];
const PRISM_LEN: usize = 144;
const AVS_MAGIC: u32 = 0x8021_1000;
const AVS_VERSION_MASK: u32 = 0xffff_ff00;

/// What a frame at `at` with this frame control carries, if it is not a later fragment. `padded` says that the header is padded to 32 bits.
fn data(frame: &[u8], at: usize, [control, flags]: [u8; 2], fragment_at: usize, padded: bool) -> Opened {
    require(control & VERSION_TYPE_MASK == DATA && control & NO_DATA == 0)?;
    require(byte(frame, at + fragment_at)? & FRAGMENT_MASK == 0)?;
    let mut length = HEADER_LEN;
    if flags & (TO_DS | FROM_DS) == TO_DS | FROM_DS {
        length += ADDRESS_LEN;
    }
    let mut aggregated = false;
    if control & QOS != 0 {
        aggregated = byte(frame, at + length)? & AGGREGATED != 0;
        length += QOS_LEN;
        if flags & ORDER != 0 {
            length += HT_LEN;
        }
    }
    if padded {
        length = length.next_multiple_of(4);
    }
    if aggregated {
        length += SUBFRAME_LEN;
    }
    // Frames that were decrypted keep the flag of protected frames: whether they can be read shows in the LLC header alone.
    llc::llc(frame, at + length, 0)
}

/// An 802.11 frame at `at`.
pub(super) fn wifi(frame: &[u8], at: usize) -> Opened {
    Ok(data(frame, at, bytes(frame, at)?, FRAGMENT_AT, false)?.within(Link::Wifi, at))
}

/// A frame whose frame control and sequence control have their bytes swapped, as Cisco's access points send it to their controller.
pub(super) fn swapped(frame: &[u8], at: usize) -> Opened {
    let [flags, control] = bytes(frame, at)?;
    data(frame, at, [control, flags], SWAPPED_FRAGMENT_AT, false)
}

/// A frame with a radiotap header (<https://www.radiotap.org>).
pub(super) fn radiotap(frame: &[u8], at: usize) -> Opened {
    require(byte(frame, at)? == 0)?;
    let length = usize::from(le16(frame, at + 2)?);
    let present = le32(frame, at + RADIOTAP_PRESENT_AT)?;
    let (mut word, mut field, mut words) = (present, at + RADIOTAP_PRESENT_AT + 4, 1);
    while word & RADIOTAP_MORE != 0 && words < RADIOTAP_MAX_PRESENT {
        word = le32(frame, field)?;
        (field, words) = (field + 4, words + 1);
    }
    if present & RADIOTAP_TIMESTAMP != 0 {
        // Fields are aligned to their size, counted from the start of the header.
        field = at + (field - at).next_multiple_of(8) + 8;
    }
    let padded = present & RADIOTAP_FLAGS != 0 && field < at + length && byte(frame, field)? & RADIOTAP_DATA_PAD != 0;
    let at = at + length;
    Ok(data(frame, at, bytes(frame, at)?, FRAGMENT_AT, padded)?.within(Link::Wifi, at))
}

/// A frame with a Prism or an AVS header, which share a link type.
pub(super) fn prism(frame: &[u8], at: usize) -> Opened {
    if be32(frame, at)? & AVS_VERSION_MASK == AVS_MAGIC {
        return avs(frame, at);
    }
    // In the byte order of the capturing host.
    let known = PRISM_MESSAGES.contains(&be32(frame, at)?) || PRISM_MESSAGES.contains(&le32(frame, at)?);
    if known { wifi(frame, at + PRISM_LEN) } else { wifi(frame, at) }
}

/// A frame with an AVS header.
pub(super) fn avs(frame: &[u8], at: usize) -> Opened {
    let length = usize::try_from(be32(frame, at + 4)?).map_err(|_| Unopened::NoPacket)?;
    require(length <= frame.len())?;
    wifi(frame, at + length)
}
