//! Link types whose frames begin with metadata of the capturing system: PKTAP, PPI, packet filters, Juniper, Hilscher, Wireshark.

use super::inner::{Inner, Opened, Unopened, be16, byte, bytes, le16, le32, require};
use super::link;
use super::usb::plausible;
use crate::capture::LinkType;

/// PKTAP (Apple): offset of the link type of the frame behind the header, whose length comes first.
const PKTAP_LINK_AT: usize = 8;
/// PPI: offsets of the header's length and of the link type behind it.
const PPI_LENGTH_AT: usize = 2;
const PPI_LINK_AT: usize = 4;
/// Juniper: magic number, flags (no link header, extensions present), and bytes of the header, of the extensions' length and of the
/// protocol that stands in for the link header.
const JUNIPER_MAGIC: [u8; 3] = *b"MGC";
const JUNIPER_NO_LINK: u8 = 0x02;
const JUNIPER_EXTENDED: u8 = 0x80;
const JUNIPER_LEN: usize = 4;
const JUNIPER_EXTENSIONS_LEN: usize = 2;
const JUNIPER_PROTOCOL_LEN: usize = 4;
/// Wireshark's exported PDUs: the tag of the end, the tag that names the protocol, and most tags that are followed.
const EXPORTED_END: u16 = 0;
const EXPORTED_PROTOCOL: u16 = 12;
const EXPORTED_MAX_TAGS: usize = 64;
/// DOCSIS: bits of the frame's type in the first byte, the bit of an extended header, bytes of the header and of its checksum.
const DOCSIS_TYPE_MASK: u8 = 0xc0;
const DOCSIS_EXTENDED: u8 = 0x01;
const DOCSIS_LEN: usize = 4;
const DOCSIS_CHECKSUM_LEN: usize = 2;

/// A frame of another link type, by its number in the metadata. Metadata is not nested.
fn of_link(frame: &[u8], number: u32, at: usize) -> Opened {
    let link = LinkType(u16::try_from(number).map_err(|_| Unopened::NoPacket)?);
    require(![LinkType::PKTAP, LinkType::PPI].contains(&link))?;
    link::open(link, frame, at)
}

/// A frame behind a PKTAP header.
pub(super) fn pktap(frame: &[u8], at: usize) -> Opened {
    let (length, number) = (le32(frame, at)? as usize, le32(frame, at + PKTAP_LINK_AT)?);
    require(length <= frame.len())?;
    of_link(frame, number, at + length)
}

/// A frame behind a per-packet information header.
pub(super) fn ppi(frame: &[u8], at: usize) -> Opened {
    let (length, number) = (usize::from(le16(frame, at + PPI_LENGTH_AT)?), le32(frame, at + PPI_LINK_AT)?);
    of_link(frame, number, at + length)
}

/// The IP packet behind the header of a BSD packet filter, whose first byte is its length without padding to 32 bits.
pub(super) fn packet_filter(frame: &[u8], at: usize) -> Opened {
    Inner::ip(frame, at + usize::from(byte(frame, at)?).next_multiple_of(4))
}

/// An Ethernet frame behind Juniper's header.
pub(super) fn juniper_ethernet(frame: &[u8], at: usize) -> Opened {
    let [m, g, c, flags] = bytes(frame, at)?;
    require([m, g, c] == JUNIPER_MAGIC)?;
    let mut next = at + JUNIPER_LEN;
    if flags & JUNIPER_EXTENDED != 0 {
        next += JUNIPER_EXTENSIONS_LEN + usize::from(be16(frame, next)?);
    }
    if flags & JUNIPER_NO_LINK == 0 {
        return Inner::ethernet(frame, next);
    }
    // Some writers set the flag although the frame is whole.
    plausible(frame, next).or_else(|_| Inner::ip(frame, next + JUNIPER_PROTOCOL_LEN))
}

/// A protocol data unit that Wireshark exported, if it is a packet or an Ethernet frame.
pub(super) fn exported(frame: &[u8], at: usize) -> Opened {
    let (mut next, mut protocol): (_, &[u8]) = (at, &[]);
    for _ in 0..EXPORTED_MAX_TAGS {
        let (tag, length) = (be16(frame, next)?, usize::from(be16(frame, next + 2)?));
        let value = frame.get(next + 4..next + 4 + length).ok_or(Unopened::Truncated)?;
        // Values are padded to 32 bits, whether their length counts that or not.
        next += 4 + length.next_multiple_of(4);
        match tag {
            EXPORTED_END => {
                return match protocol.trim_ascii_end() {
                    b"ip" | b"ipv6" => Inner::ip(frame, next),
                    b"eth" | b"eth_withoutfcs" | b"eth_withfcs" | b"eth_maybefcs" => Inner::ethernet(frame, next),
                    _ => Err(Unopened::NoPacket),
                };
            }
            EXPORTED_PROTOCOL => protocol = value.split(|&byte| byte == 0).next().unwrap_or(value),
            _ => {}
        }
    }
    Err(Unopened::NoPacket)
}

/// The Ethernet frame of a DOCSIS packet.
pub(super) fn docsis(frame: &[u8], at: usize) -> Opened {
    let [control, parameter] = bytes(frame, at)?;
    require(control & DOCSIS_TYPE_MASK == 0)?;
    let extended = if control & DOCSIS_EXTENDED != 0 { usize::from(parameter) } else { 0 };
    Inner::ethernet(frame, at + DOCSIS_LEN + extended + DOCSIS_CHECKSUM_LEN)
}
