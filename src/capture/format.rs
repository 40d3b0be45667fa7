//! Parser of pcap and pcapng records, over a window of bytes that may grow.
//!
//! One parser serves memory maps and streams. Formats:
//! - pcap (draft-ietf-opsawg-pcap): both byte orders, micro- and nanoseconds, and the modified form with longer record headers;
//! - pcapng (draft-ietf-opsawg-pcapng): sections of either byte order, several interfaces, `if_tsresol`, `if_tsoffset`; enhanced,
//!   simple and obsolete packet blocks.

use super::{LinkType, Nanos};

/// Longest record accepted, in bytes: captures with a snap length above 256 KiB exist (USB, loopback); above 64 MiB they are damaged.
const MAX_RECORD: usize = 64 << 20;
/// Most interfaces in a pcapng section; a real file has one for each network card.
const MAX_INTERFACES: usize = 65_536;
const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Bytes of a pcap file header. They are enough to detect pcapng and compressed files too.
pub(super) const HEADER_LEN: usize = 24;
/// Bytes of a pcap record header, and of the modified form's.
const RECORD_HEADER: usize = 16;
const MODIFIED_RECORD_HEADER: usize = 24;
/// Magic numbers of pcap files in the byte order of their writer.
const PCAP_MICROS: u32 = 0xa1b2_c3d4;
const PCAP_NANOS: u32 = 0xa1b2_3c4d;
const PCAP_MODIFIED: u32 = 0xa1b2_cd34;

/// pcapng block types.
const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const OBSOLETE_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;
/// The byte-order magic of a pcapng section.
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
/// Bytes of a pcapng block's type and length, before its body.
const BLOCK_START: usize = 8;
/// Bytes of a pcapng block without a body: type, length, and length again.
const BLOCK_OVERHEAD: usize = BLOCK_START + 4;
/// Bytes of fixed fields before the data of an enhanced or obsolete packet block.
const PACKET_FIELDS: usize = 20;
/// Bytes of fixed fields in an interface description block, before its options.
const INTERFACE_FIELDS: usize = 8;
/// Options of an interface description block.
const OPT_ENDOFOPT: u16 = 0;
const IF_TSRESOL: u16 = 9;
const IF_TSOFFSET: u16 = 14;

/// One step through the window.
pub(super) enum Step {
    /// A frame at `at..at + len` of the window. The next record is `consumed` bytes further on.
    Frame { consumed: usize, timestamp: Nanos, link: LinkType, wire_len: u32, at: usize, len: u32 },
    /// A record of this many bytes without a frame.
    Skip(usize),
    /// The record needs a window of this many bytes.
    NeedMore(usize),
    /// The record is invalid, for this reason.
    Damaged(String),
}

#[derive(Clone, Copy)]
struct FileInterface {
    link: LinkType,
    /// Nanoseconds per tick, as the fraction `numerator / denominator`.
    numerator: u64,
    denominator: u64,
    /// Seconds that are added to every timestamp.
    offset: i64,
    snaplen: u32,
}

/// The format of a capture, with what its headers define.
pub(super) enum Format {
    Pcap { big: bool, nanos: bool, record_header: usize, link: LinkType },
    PcapNg { big: bool, interfaces: Vec<InterfaceSlot> },
}

/// An interface of a section, `None` if its description is invalid: interfaces are numbered by position.
pub(super) struct InterfaceSlot(Option<FileInterface>);

fn u16_at(w: &[u8], at: usize, big: bool) -> u16 {
    let b = [w[at], w[at + 1]];
    if big { u16::from_be_bytes(b) } else { u16::from_le_bytes(b) }
}

fn u32_at(w: &[u8], at: usize, big: bool) -> u32 {
    let b = [w[at], w[at + 1], w[at + 2], w[at + 3]];
    if big { u32::from_be_bytes(b) } else { u32::from_le_bytes(b) }
}

/// Byte order, resolution and record header of a pcap file, by the first four bytes read in big-endian order.
fn pcap_variant(magic: u32) -> Option<(bool, bool, usize)> {
    [true, false].into_iter().find_map(|big| match if big { magic } else { magic.swap_bytes() } {
        PCAP_MICROS => Some((big, false, RECORD_HEADER)),
        PCAP_NANOS => Some((big, true, RECORD_HEADER)),
        PCAP_MODIFIED => Some((big, false, MODIFIED_RECORD_HEADER)),
        _ => None,
    })
}

impl Format {
    /// Whether a file that begins with `start` is a pcap or pcapng file.
    pub(super) fn is_capture(start: &[u8]) -> bool {
        let magic = start.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
        magic.is_some_and(|magic| magic == SECTION_HEADER || pcap_variant(magic).is_some())
    }

    /// Returns the format by a file's first bytes, and the length of the file header. `None` if they are not a capture's, or end
    /// within the file header.
    pub(super) fn detect(window: &[u8]) -> Option<(Self, usize)> {
        let magic = u32::from_be_bytes(*window.first_chunk()?);
        if magic == SECTION_HEADER {
            return Some((Self::PcapNg { big: false, interfaces: Vec::new() }, 0));
        }
        let (big, nanos, record_header) = pcap_variant(magic)?;
        if window.len() < HEADER_LEN {
            return None;
        }
        // The upper 16 bits of the field hold the length of the frame check sequence.
        let link = LinkType((u32_at(window, 20, big) & 0xffff) as u16);
        Some((Self::Pcap { big, nanos, record_header, link }, HEADER_LEN))
    }

    /// Parses the record at the start of a non-empty window.
    #[inline]
    pub(super) fn next(&mut self, window: &[u8]) -> Step {
        match self {
            Self::Pcap { big, nanos, record_header, link } => pcap_record(window, *big, *nanos, *record_header, *link),
            Self::PcapNg { big, interfaces } => pcapng_block(window, big, interfaces),
        }
    }
}

#[inline]
fn pcap_record(window: &[u8], big: bool, nanos: bool, header: usize, link: LinkType) -> Step {
    if window.len() < header {
        return Step::NeedMore(header);
    }
    let len = u32_at(window, 8, big);
    if len as usize > MAX_RECORD {
        return Step::Damaged(format!("the next packet claims {len} bytes"));
    }
    let consumed = header + len as usize;
    if window.len() < consumed {
        return Step::NeedMore(consumed);
    }
    let fraction = u64::from(u32_at(window, 4, big));
    let fraction = if nanos { fraction } else { fraction * 1000 };
    let timestamp = Nanos(u64::from(u32_at(window, 0, big)) * NANOS_PER_SECOND + fraction);
    Step::Frame { consumed, timestamp, link, wire_len: u32_at(window, 12, big), at: header, len }
}

fn pcapng_block(window: &[u8], big: &mut bool, interfaces: &mut Vec<InterfaceSlot>) -> Step {
    if window.len() < BLOCK_OVERHEAD {
        return Step::NeedMore(BLOCK_OVERHEAD);
    }
    // The section header's type reads the same in both byte orders.
    if u32_at(window, 0, *big) == SECTION_HEADER {
        match u32_at(window, BLOCK_START, true) {
            BYTE_ORDER_MAGIC => *big = true,
            magic if magic.swap_bytes() == BYTE_ORDER_MAGIC => *big = false,
            _ => return Step::Damaged("the next section header has no byte-order magic".into()),
        }
        interfaces.clear();
    }
    let (kind, length) = (u32_at(window, 0, *big), u32_at(window, 4, *big) as usize);
    if !(BLOCK_OVERHEAD..=MAX_RECORD).contains(&length) {
        return Step::Damaged(format!("the next block claims {length} bytes"));
    }
    // Blocks are padded to 32 bits.
    let consumed = length.next_multiple_of(4);
    if window.len() < consumed {
        return Step::NeedMore(consumed);
    }
    let body = &window[BLOCK_START..length - 4];
    match kind {
        INTERFACE_DESCRIPTION if interfaces.len() >= MAX_INTERFACES => {
            Step::Damaged(format!("the section has more than {MAX_INTERFACES} interfaces"))
        }
        INTERFACE_DESCRIPTION => {
            interfaces.push(InterfaceSlot(parse_interface(body, *big)));
            Step::Skip(consumed)
        }
        ENHANCED_PACKET if body.len() >= PACKET_FIELDS => packet_block(body, *big, u32_at(body, 0, *big), interfaces, consumed),
        OBSOLETE_PACKET if body.len() >= PACKET_FIELDS => {
            packet_block(body, *big, u16_at(body, 0, *big).into(), interfaces, consumed)
        }
        SIMPLE_PACKET if body.len() >= 4 => simple_packet_block(body, *big, interfaces, consumed),
        _ => Step::Skip(consumed),
    }
}

/// An enhanced packet block, or the obsolete packet block, which differs in its first four bytes only: the interface's number.
#[inline]
fn packet_block(body: &[u8], big: bool, number: u32, interfaces: &[InterfaceSlot], consumed: usize) -> Step {
    let Some(interface) = interfaces.get(number as usize).and_then(|i| i.0) else {
        return Step::Damaged(format!("the next packet names interface {number}, which is not described"));
    };
    let ticks = u64::from(u32_at(body, 4, big)) << 32 | u64::from(u32_at(body, 8, big));
    let len = u32_at(body, 12, big);
    if len as usize > body.len() - PACKET_FIELDS {
        return Step::Damaged(format!("the next packet claims {len} bytes in a block of {}", body.len() + BLOCK_OVERHEAD));
    }
    let (timestamp, wire_len) = (interface.time(ticks), u32_at(body, 16, big));
    Step::Frame { consumed, timestamp, link: interface.link, wire_len, at: BLOCK_START + PACKET_FIELDS, len }
}

/// A simple packet block: of the first interface, without a timestamp, its captured length implied.
fn simple_packet_block(body: &[u8], big: bool, interfaces: &[InterfaceSlot], consumed: usize) -> Step {
    let Some(interface) = interfaces.first().and_then(|i| i.0) else {
        return Step::Damaged("the next packet comes before any interface description".into());
    };
    let wire_len = u32_at(body, 0, big);
    let mut len = wire_len.min((body.len() - 4) as u32);
    if interface.snaplen > 0 {
        len = len.min(interface.snaplen);
    }
    Step::Frame { consumed, timestamp: Nanos(0), link: interface.link, wire_len, at: BLOCK_START + 4, len }
}

impl FileInterface {
    fn time(&self, ticks: u64) -> Nanos {
        let nanos = u128::from(ticks) * u128::from(self.numerator) / u128::from(self.denominator);
        let offset = i128::from(self.offset) * i128::from(NANOS_PER_SECOND);
        let nanos = i128::try_from(nanos).unwrap_or(i128::MAX).saturating_add(offset);
        Nanos(u64::try_from(nanos.max(0)).unwrap_or(u64::MAX))
    }
}

/// Nanoseconds per tick as a fraction, by the value of `if_tsresol`: a negative power of 2 (top bit set) or of 10.
fn resolution(value: u8) -> Option<(u64, u64)> {
    let exponent = u32::from(value & 0x7f);
    Some(if value & 0x80 != 0 {
        (NANOS_PER_SECOND, 1u64.checked_shl(exponent)?)
    } else if exponent <= 9 {
        (10u64.pow(9 - exponent), 1)
    } else {
        (1, 10u64.checked_pow(exponent - 9)?)
    })
}

fn parse_interface(body: &[u8], big: bool) -> Option<FileInterface> {
    if body.len() < INTERFACE_FIELDS {
        return None;
    }
    // Microseconds, unless an option says otherwise.
    let (mut numerator, mut denominator, mut offset) = (1000, 1, 0);
    let mut at = INTERFACE_FIELDS;
    while at + 4 <= body.len() {
        let (code, size) = (u16_at(body, at, big), usize::from(u16_at(body, at + 2, big)));
        let Some(value) = body.get(at + 4..at + 4 + size) else { break };
        match (code, value) {
            (OPT_ENDOFOPT, _) => break,
            (IF_TSRESOL, [value]) => (numerator, denominator) = resolution(*value)?,
            (IF_TSOFFSET, value) if value.len() == 8 => {
                let bytes: [u8; 8] = value.try_into().ok()?;
                offset = if big { i64::from_be_bytes(bytes) } else { i64::from_le_bytes(bytes) };
            }
            _ => {}
        }
        at += 4 + size.next_multiple_of(4);
    }
    Some(FileInterface { link: LinkType(u16_at(body, 0, big)), numerator, denominator, offset, snaplen: u32_at(body, 4, big) })
}
