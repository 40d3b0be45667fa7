//! Parser of records of capture files, over a window of bytes that may grow.
//!
//! One parser serves memory maps and streams. Formats:
//! - pcap (draft-ietf-opsawg-pcap): both byte orders, micro- and nanoseconds, the modified form with longer record headers, and the
//!   lengths of versions before 2.4, which may be in the other order;
//! - pcapng (draft-ietf-opsawg-pcapng): sections of either byte order, several interfaces, `if_tsresol`, `if_tsoffset`; enhanced,
//!   simple and obsolete packet blocks;
//! - snoop (RFC 1761), and ERF records of Endace's capture cards.

use std::collections::HashMap;
use std::sync::Arc;

use super::decompress::is_compressed;
use super::{InterfaceId, InterfaceNames, LinkType, Nanos};

/// Longest record accepted, in bytes: captures with a snap length above 256 KiB exist (USB, loopback); above 64 MiB they are damaged.
const MAX_RECORD: usize = 64 << 20;
/// Most interfaces in a pcapng section; a real file has one for each network card.
const MAX_INTERFACES: usize = 65_536;
const NANOS_PER_SECOND: u64 = 1_000_000_000;
/// The timestamp of packets that have none.
pub(super) const NO_TIME: Nanos = Nanos(u64::MAX);
/// Difference of the clocks of a file's interfaces, in nanoseconds, above which they are synchronized, and the number of blocks that are
/// searched for it.
const MAX_CLOCK_DIFFERENCE: u64 = 60 * NANOS_PER_SECOND;
const LOOK_AHEAD: usize = 256;

/// Bytes of a pcap file header. They are enough to detect pcapng and compressed files too.
pub(super) const HEADER_LEN: usize = 24;
/// Bytes of a pcap record header, and of the modified form's.
const RECORD_HEADER: usize = 16;
const MODIFIED_RECORD_HEADER: usize = 24;
/// Magic numbers of pcap files in the byte order of their writer.
const PCAP_MICROS: u32 = 0xa1b2_c3d4;
const PCAP_NANOS: u32 = 0xa1b2_3c4d;
const PCAP_MODIFIED: u32 = 0xa1b2_cd34;

/// Major version of pcap; the minor version below which the wire length of a record comes before the captured length; the one in which either
/// may come first.
const PCAP_MAJOR: u16 = 2;
const PCAP_SWAPPED_BEFORE: u16 = 3;
const PCAP_UNSURE: u16 = 3;

/// snoop: magic number, bytes of the file header and of a record header, and where the file header's type is.
const SNOOP_MAGIC: [u8; 8] = *b"snoop\0\0\0";
const SNOOP_HEADER: usize = 16;
const SNOOP_RECORD_HEADER: usize = 24;
const SNOOP_TYPE_AT: usize = 12;

/// ERF: bytes of a record header, of an Ethernet record before its frame, the types of records and of padding, and the seconds of the
/// years 1990 and 2100, between which a first timestamp is, since the format has no magic number.
const ERF_HEADER: usize = 16;
const ERF_ETHERNET_HEADER: usize = ERF_HEADER + 2;
const ERF_ETHERNET: u8 = 2;
const ERF_PADDING: u8 = 48;
const ERF_EXTENDED: u8 = 0x80;
const ERF_TYPES: [u8; 12] = [1, 2, 5, 10, 11, 15, 16, 17, 19, 20, 22, 23];
const ERF_SECONDS: std::ops::Range<u32> = 631_152_000..4_102_444_800;

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
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
const IF_TSOFFSET: u16 = 14;

/// One step through the window.
pub(super) enum Step {
    /// A frame at `at..at + len` of the window. The next record is `consumed` bytes further on.
    Frame {
        consumed: usize,
        timestamp: Nanos,
        link: LinkType,
        interface: Option<InterfaceId>,
        wire_len: u32,
        at: usize,
        len: u32,
    },
    /// A record of this many bytes without a frame.
    Skip(usize),
    /// The record needs a window of this many bytes.
    NeedMore(usize),
    /// The record is invalid, for this reason, and where the next one begins is not known.
    Damaged(String),
}

#[derive(Clone, Copy)]
struct FileInterface {
    link: LinkType,
    /// Its number in the table of names; `None` without a table.
    id: Option<InterfaceId>,
    /// Nanoseconds per tick, as the fraction `numerator / denominator`.
    numerator: u64,
    denominator: u128,
    /// Seconds that are added to every timestamp.
    offset: i64,
    /// Largest number of bytes captured of a packet; 0 for no limit.
    snaplen: u32,
    /// Time of the last packet by the interface's own clock; `None` before the first.
    last: Option<Nanos>,
    /// Nanoseconds that are added to bring the interface's clock to that of the section's first packet.
    correction: i64,
}

/// The order of the two lengths of a pcap record.
#[derive(Clone, Copy)]
pub(super) enum LengthOrder {
    CapturedFirst,
    WireFirst,
    /// By their values: the captured length is the smaller one.
    Unsure,
}

/// The format of a capture, with what its headers define.
pub(super) enum Format {
    Pcap { big: bool, nanos: bool, record_header: usize, link: LinkType, lengths: LengthOrder },
    Snoop { link: LinkType },
    Erf,
    PcapNg { big: bool, section: Section },
}

/// The interfaces of a pcapng section, and their clocks.
#[derive(Default)]
pub(super) struct Section {
    /// By position; `None` if the description is invalid.
    interfaces: Vec<Option<FileInterface>>,
    /// Time of the last packet of any interface.
    latest: Nanos,
    /// Names of the interfaces of this section, and how many have each.
    names: HashMap<String, u32>,
    /// Numbers of interfaces by their names, if they are wanted.
    pub(super) table: Option<Arc<InterfaceNames>>,
}

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
    /// Whether a file that begins with `start` is a pcap, pcapng or snoop file; four bytes are enough. ERF has no magic number.
    pub(super) fn is_capture(start: &[u8]) -> bool {
        let magic = start.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
        start.starts_with(&SNOOP_MAGIC[..4])
            || magic.is_some_and(|magic| magic == SECTION_HEADER || pcap_variant(magic).is_some())
    }

    /// Whether a whole file, in which no format was detected, is a pcap or snoop file that ends within the file header.
    pub(super) fn is_cut(file: &[u8]) -> bool {
        let magic = file.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
        magic.is_some_and(|magic| pcap_variant(magic).is_some()) || file.starts_with(&SNOOP_MAGIC)
    }

    /// Returns the format by a file's first bytes, and the length of the file header. `None` if they are not a capture's, or end
    /// within the file header.
    pub(super) fn detect(window: &[u8]) -> Option<(Self, usize)> {
        let magic = u32::from_be_bytes(*window.first_chunk()?);
        if magic == SECTION_HEADER {
            return Some((Self::PcapNg { big: false, section: Section::default() }, 0));
        }
        if window.starts_with(&SNOOP_MAGIC) && window.len() >= SNOOP_HEADER {
            return Some((Self::Snoop { link: snoop_link(u32_at(window, SNOOP_TYPE_AT, true)) }, SNOOP_HEADER));
        }
        if window.len() < HEADER_LEN {
            return None;
        }
        if looks_like_erf(window) {
            return Some((Self::Erf, 0));
        }
        let (big, nanos, record_header) = pcap_variant(magic)?;
        let lengths = match (u16_at(window, 4, big), u16_at(window, 6, big)) {
            (PCAP_MAJOR, minor) if minor < PCAP_SWAPPED_BEFORE => LengthOrder::WireFirst,
            (PCAP_MAJOR, PCAP_UNSURE) => LengthOrder::Unsure,
            _ => LengthOrder::CapturedFirst,
        };
        // The upper 16 bits of the field hold the length of the frame check sequence.
        let link = LinkType((u32_at(window, 20, big) & 0xffff) as u16);
        Some((Self::Pcap { big, nanos, record_header, link, lengths }, HEADER_LEN))
    }

    /// Parses the record at the start of a non-empty window.
    #[inline]
    pub(super) fn next(&mut self, window: &[u8]) -> Step {
        match self {
            Self::Pcap { big, nanos, record_header, link, lengths } => {
                pcap_record(window, *big, *nanos, *record_header, *link, *lengths)
            }
            Self::Snoop { link } => snoop_record(window, *link),
            Self::Erf => erf_record(window),
            Self::PcapNg { big, section } => pcapng_block(window, big, section),
        }
    }
}

/// The link type of a snoop file's data link type (RFC 1761, and Solaris's numbers for ATM and InfiniBand).
fn snoop_link(kind: u32) -> LinkType {
    match kind {
        0 | 4 => LinkType::ETHERNET,
        2 => LinkType::IEEE802_5,
        8 => LinkType::FDDI,
        18 => LinkType::SUNATM,
        26 => LinkType::IPOIB,
        _ => LinkType(u16::MAX),
    }
}

fn snoop_record(window: &[u8], link: LinkType) -> Step {
    if window.len() < SNOOP_RECORD_HEADER {
        return Step::NeedMore(SNOOP_RECORD_HEADER);
    }
    let [wire_len, len, consumed] = [0, 4, 8].map(|at| u32_at(window, at, true));
    let consumed = consumed as usize;
    if !(SNOOP_RECORD_HEADER..=MAX_RECORD).contains(&consumed) || len as usize > consumed - SNOOP_RECORD_HEADER {
        return Step::Damaged(format!("the next packet claims {len} bytes in a record of {consumed}"));
    }
    if window.len() < consumed {
        return Step::NeedMore(consumed);
    }
    let [seconds, micros] = [16, 20].map(|at| u64::from(u32_at(window, at, true)));
    let timestamp = Nanos(seconds * NANOS_PER_SECOND + micros * 1000);
    Step::Frame { consumed, timestamp, link, interface: None, wire_len, at: SNOOP_RECORD_HEADER, len }
}

/// Whether the first bytes are those of an ERF record, of [`HEADER_LEN`] bytes and more. The time and the file name in the header of a gzip
/// file can look like one, and so can text; records have bytes that text does not, as the first of a length below 2304.
fn looks_like_erf(window: &[u8]) -> bool {
    let (length, wire_len) = (usize::from(u16_at(window, 10, true)), u16_at(window, 14, true));
    let text = window[..HEADER_LEN].iter().all(|byte| !byte.is_ascii_control() || byte.is_ascii_whitespace());
    !is_compressed(window)
        && !text
        && ERF_SECONDS.contains(&u32_at(window, 4, false))
        && ERF_TYPES.contains(&(window[8] & !ERF_EXTENDED))
        && length > ERF_ETHERNET_HEADER
        && length.is_multiple_of(8)
        && wire_len > 0
}

/// An ERF record. The frame of an Ethernet record without extension headers is the Ethernet frame, else the whole record.
fn erf_record(window: &[u8]) -> Step {
    if window.len() < ERF_HEADER {
        return Step::NeedMore(ERF_HEADER);
    }
    let (kind, consumed) = (window[8], usize::from(u16_at(window, 10, true)));
    if consumed < ERF_HEADER {
        return Step::Damaged(format!("the next record claims {consumed} bytes"));
    }
    if window.len() < consumed {
        return Step::NeedMore(consumed);
    }
    if kind & !ERF_EXTENDED == ERF_PADDING {
        return Step::Skip(consumed);
    }
    // Seconds and a binary fraction, always little-endian.
    let (fraction, seconds) = (u64::from(u32_at(window, 0, false)), u64::from(u32_at(window, 4, false)));
    let timestamp = Nanos(seconds * NANOS_PER_SECOND + ((fraction * NANOS_PER_SECOND) >> 32));
    let wire_len = u32::from(u16_at(window, 14, true));
    if kind == ERF_ETHERNET && consumed >= ERF_ETHERNET_HEADER {
        let len = wire_len.min((consumed - ERF_ETHERNET_HEADER) as u32);
        let link = LinkType::ETHERNET;
        return Step::Frame { consumed, timestamp, link, interface: None, wire_len, at: ERF_ETHERNET_HEADER, len };
    }
    Step::Frame { consumed, timestamp, link: LinkType::ERF, interface: None, wire_len, at: 0, len: consumed as u32 }
}

#[inline]
fn pcap_record(window: &[u8], big: bool, nanos: bool, header: usize, link: LinkType, lengths: LengthOrder) -> Step {
    if window.len() < header {
        return Step::NeedMore(header);
    }
    let (mut len, mut wire_len) = (u32_at(window, 8, big), u32_at(window, 12, big));
    match lengths {
        LengthOrder::CapturedFirst => {}
        LengthOrder::Unsure if len <= wire_len => {}
        LengthOrder::WireFirst | LengthOrder::Unsure => (len, wire_len) = (wire_len, len),
    }
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
    Step::Frame { consumed, timestamp, link, interface: None, wire_len, at: header, len }
}

fn pcapng_block(window: &[u8], big: &mut bool, section: &mut Section) -> Step {
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
        *section = Section { table: section.table.take(), ..Section::default() };
    }
    let (kind, length) = (u32_at(window, 0, *big), u32_at(window, 4, *big) as usize);
    if !(BLOCK_OVERHEAD..=MAX_RECORD).contains(&length) {
        return Step::Damaged(format!("the next block claims {length} bytes"));
    }
    // The length of a block is a multiple of four; some writers leave the padding out of it.
    let consumed = length.next_multiple_of(4);
    if window.len() < consumed {
        return Step::NeedMore(consumed);
    }
    let body = &window[BLOCK_START..length - 4];
    match kind {
        INTERFACE_DESCRIPTION if section.interfaces.len() >= MAX_INTERFACES => {
            Step::Damaged(format!("the section has more than {MAX_INTERFACES} interfaces"))
        }
        INTERFACE_DESCRIPTION => {
            let id = section.number(body, *big);
            section.interfaces.push(parse_interface(body, *big).map(|interface| FileInterface { id, ..interface }));
            Step::Skip(consumed)
        }
        ENHANCED_PACKET if body.len() >= PACKET_FIELDS => {
            packet_block(window, section, PacketBlock { body, big: *big, number: u32_at(body, 0, *big), consumed })
        }
        OBSOLETE_PACKET if body.len() >= PACKET_FIELDS => {
            packet_block(window, section, PacketBlock { body, big: *big, number: u16_at(body, 0, *big).into(), consumed })
        }
        SIMPLE_PACKET if body.len() >= 4 => simple_packet_block(body, *big, section, consumed),
        _ => Step::Skip(consumed),
    }
}

/// An enhanced packet block, or the obsolete packet block, which differs in its first four bytes only: the interface's number.
#[derive(Clone, Copy)]
struct PacketBlock<'a> {
    body: &'a [u8],
    big: bool,
    /// Number of the interface.
    number: u32,
    /// Bytes of the block.
    consumed: usize,
}

/// The packet of a block at the start of the window.
#[inline]
fn packet_block(window: &[u8], section: &mut Section, block: PacketBlock<'_>) -> Step {
    let PacketBlock { body, big, number, consumed } = block;
    let Some(interface) = section.interfaces.get(number as usize).copied().flatten() else {
        return Step::Damaged(format!("the next packet names interface {number}, which is not described"));
    };
    let len = u32_at(body, 12, big);
    if len as usize > body.len() - PACKET_FIELDS {
        return Step::Damaged(format!("the next packet claims {len} bytes in a block of {}", body.len() + BLOCK_OVERHEAD));
    }
    let timestamp = section.synchronize(number as usize, interface.time(ticks(body, big)), &window[consumed..], big);
    Step::Frame {
        consumed,
        timestamp,
        link: interface.link,
        interface: interface.id,
        wire_len: u32_at(body, 16, big),
        at: BLOCK_START + PACKET_FIELDS,
        len,
    }
}

/// The timestamp of a packet block, in ticks of its interface.
fn ticks(body: &[u8], big: bool) -> u64 {
    u64::from(u32_at(body, 4, big)) << 32 | u64::from(u32_at(body, 8, big))
}

impl Section {
    /// The number of the interface that the next description describes, by its name or else its position; `None` without a table.
    fn number(&mut self, body: &[u8], big: bool) -> Option<InterfaceId> {
        let table = self.table.as_ref()?;
        let name = interface_name(body, big).unwrap_or_else(|| self.interfaces.len().to_string());
        let same = self.names.entry(name.clone()).or_default();
        *same += 1;
        table.number(&name, *same - 1)
    }

    /// The time of a packet by the clock of the section's first packet. `rest`: the blocks after it, as far as they are in the window.
    ///
    /// Where computers of different clocks capture into one file, the time jumps to and fro between its packets. If the first packet of an
    /// interface is more than [`MAX_CLOCK_DIFFERENCE`] from the packet before it, and another interface soon goes on where it was, then
    /// the interface has another clock, and is taken to have begun at the time of the packet before. If nothing goes on, time has passed.
    fn synchronize(&mut self, number: usize, time: Nanos, rest: &[u8], big: bool) -> Nanos {
        let jump = time.0.abs_diff(self.latest.0);
        let first = self.interfaces[number].is_some_and(|interface| interface.last.is_none());
        // Of the section's first packet nothing goes on: no interface has a last packet.
        let differs = first && jump > MAX_CLOCK_DIFFERENCE && self.goes_on(number, jump / 2, rest, big);
        let Some(interface) = &mut self.interfaces[number] else { return time };
        if differs {
            interface.correction = self.latest.0.wrapping_sub(time.0).cast_signed();
        }
        interface.last = Some(time);
        self.latest = Nanos(time.0.saturating_add_signed(interface.correction));
        self.latest
    }

    /// Whether one of the next packets is of another interface than `number`, and within `tolerance` nanoseconds of that interface's last
    /// packet.
    fn goes_on(&self, number: usize, tolerance: u64, mut rest: &[u8], big: bool) -> bool {
        for _ in 0..LOOK_AHEAD {
            if rest.len() < BLOCK_START + PACKET_FIELDS {
                return false;
            }
            let (kind, length, body) = (u32_at(rest, 0, big), u32_at(rest, 4, big) as usize, &rest[BLOCK_START..]);
            let next = match kind {
                ENHANCED_PACKET => u32_at(body, 0, big) as usize,
                OBSOLETE_PACKET => usize::from(u16_at(body, 0, big)),
                _ => number,
            };
            let interface = self.interfaces.get(next).copied().flatten().filter(|_| next != number);
            if let Some((interface, last)) = interface.and_then(|interface| Some((interface, interface.last?)))
                && interface.time(ticks(body, big)).0.abs_diff(last.0) < tolerance
            {
                return true;
            }
            let Some(after) = rest.get(length.max(BLOCK_OVERHEAD).next_multiple_of(4)..) else { return false };
            rest = after;
        }
        false
    }
}

/// A simple packet block: of the first interface, without a timestamp, its captured length implied.
fn simple_packet_block(body: &[u8], big: bool, section: &Section, consumed: usize) -> Step {
    let Some(interface) = section.interfaces.first().copied().flatten() else {
        return Step::Damaged("the next packet comes before any interface description".into());
    };
    let wire_len = u32_at(body, 0, big);
    let mut len = wire_len.min((body.len() - 4) as u32);
    if interface.snaplen > 0 {
        len = len.min(interface.snaplen);
    }
    let (link, interface) = (interface.link, interface.id);
    Step::Frame { consumed, timestamp: NO_TIME, link, interface, wire_len, at: BLOCK_START + 4, len }
}

impl FileInterface {
    fn time(&self, ticks: u64) -> Nanos {
        let nanos = u128::from(ticks) * u128::from(self.numerator) / self.denominator;
        let offset = i128::from(self.offset) * i128::from(NANOS_PER_SECOND);
        let nanos = i128::try_from(nanos).unwrap_or(i128::MAX).saturating_add(offset);
        Nanos(u64::try_from(nanos.max(0)).unwrap_or(u64::MAX))
    }
}

/// Nanoseconds per tick as a fraction, by the value of `if_tsresol`: a negative power of 2 (top bit set) or of 10. Ticks below a
/// resolution that fits are 0.
fn resolution(value: u8) -> (u64, u128) {
    let exponent = u32::from(value & 0x7f);
    if value & 0x80 != 0 {
        (NANOS_PER_SECOND, 1 << exponent)
    } else if exponent <= 9 {
        (10u64.pow(9 - exponent), 1)
    } else {
        10u128.checked_pow(exponent - 9).map_or((0, 1), |denominator| (1, denominator))
    }
}

/// Options of an interface description block: code and value.
fn interface_options(body: &[u8], big: bool) -> impl Iterator<Item = (u16, &[u8])> {
    let mut at = INTERFACE_FIELDS;
    std::iter::from_fn(move || {
        let start = body.get(at..at + 4)?;
        let (code, size) = (u16_at(start, 0, big), usize::from(u16_at(start, 2, big)));
        let value = body.get(at + 4..at + 4 + size)?;
        at += 4 + size.next_multiple_of(4);
        (code != OPT_ENDOFOPT).then_some((code, value))
    })
}

/// The name of an interface, if its description has one.
fn interface_name(body: &[u8], big: bool) -> Option<String> {
    let (_, name) = interface_options(body, big).find(|(code, _)| *code == IF_NAME)?;
    let name = String::from_utf8_lossy(name);
    Some(name.trim_end_matches('\0').to_owned()).filter(|name| !name.is_empty())
}

fn parse_interface(body: &[u8], big: bool) -> Option<FileInterface> {
    if body.len() < INTERFACE_FIELDS {
        return None;
    }
    // Microseconds, unless an option says otherwise.
    let (mut numerator, mut denominator, mut offset) = (1000, 1, 0);
    for option in interface_options(body, big) {
        match option {
            (IF_TSRESOL, [value]) => (numerator, denominator) = resolution(*value),
            (IF_TSOFFSET, value) if value.len() == 8 => {
                let bytes: [u8; 8] = value.try_into().ok()?;
                offset = if big { i64::from_be_bytes(bytes) } else { i64::from_le_bytes(bytes) };
            }
            _ => {}
        }
    }
    Some(FileInterface {
        link: LinkType(u16_at(body, 0, big)),
        id: None,
        numerator,
        denominator,
        offset,
        snaplen: u32_at(body, 4, big),
        last: None,
        correction: 0,
    })
}
