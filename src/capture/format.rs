//! What does the next record of a capture say? pcap and pcapng, parsed over a window of octets that may grow.
//!
//! One parser serves memory maps and streams. Formats: pcap (both octet orders, micro- and nanoseconds, and the modified form
//! with longer record headers), pcapng (draft-ietf-opsawg-pcapng: sections of either order, several interfaces, `if_tsresol`,
//! `if_tsoffset`, enhanced, simple and obsolete packet blocks).

use super::{LinkType, Nanos};

/// The longest record believed: captures with a snap length above 256 KiB exist (USB, loopback), above 64 MiB they are damage.
const MAX_RECORD: usize = 64 << 20;
/// Interfaces of one pcapng section at most; a real file has one for each network card.
const MAX_INTERFACES: usize = 65_536;

/// One step through the window.
pub(super) enum Step {
    /// A frame at `at..at + len` of the window; then go on after `consumed` octets.
    Frame {
        consumed: usize,
        timestamp: Nanos,
        link: LinkType,
        wire_len: u32,
        at: usize,
        len: u32,
    },
    Skip(usize),
    /// The record needs a window of so many octets.
    NeedMore(usize),
    Damaged(String),
}

#[derive(Clone, Copy)]
struct FileInterface {
    link: LinkType,
    /// Nanoseconds a tick as a fraction.
    numerator: u64,
    denominator: u64,
    offset: i64,
    snaplen: u32,
}

/// The format of a capture and what its headers said.
pub(super) enum Format {
    Pcap { big: bool, nanos: bool, record_header: usize, link: LinkType },
    PcapNg { big: bool, interfaces: Vec<InterfaceSlot> },
}

/// Interfaces are numbered by place, so a damaged one keeps its own.
pub(super) struct InterfaceSlot(Option<FileInterface>);

fn u16_at(w: &[u8], at: usize, big: bool) -> u16 {
    let b = [w[at], w[at + 1]];
    if big { u16::from_be_bytes(b) } else { u16::from_le_bytes(b) }
}

fn u32_at(w: &[u8], at: usize, big: bool) -> u32 {
    let b = [w[at], w[at + 1], w[at + 2], w[at + 3]];
    if big { u32::from_be_bytes(b) } else { u32::from_le_bytes(b) }
}

impl Format {
    /// Whether the first octets are a capture's.
    pub(super) fn is_capture(start: &[u8]) -> bool {
        matches!(
            start.get(..4),
            Some(
                [0xa1, 0xb2, 0xc3 | 0x3c | 0xcd, 0xd4 | 0x4d | 0x34]
                    | [0xd4 | 0x4d | 0x34, 0xc3 | 0x3c | 0xcd, 0xb2, 0xa1]
                    | [0x0a, 0x0d, 0x0d, 0x0a]
            )
        )
    }

    /// The format by the file's first octets, and how many of them belong to its header. `None`: not a capture (or cut in the header).
    pub(super) fn detect(window: &[u8]) -> Option<(Self, usize)> {
        let magic = u32::from_be_bytes(window.get(..4)?.try_into().ok()?);
        let (big, nanos, record_header) = match magic {
            0xa1b2_c3d4 => (true, false, 16),
            0xd4c3_b2a1 => (false, false, 16),
            0xa1b2_3c4d => (true, true, 16),
            0x4d3c_b2a1 => (false, true, 16),
            0xa1b2_cd34 => (true, false, 24),
            0x34cd_b2a1 => (false, false, 24),
            0x0a0d_0d0a => return Some((Self::PcapNg { big: false, interfaces: Vec::new() }, 0)),
            _ => return None,
        };
        if window.len() < 24 {
            return None;
        }
        // The upper bits of the link type say how long the frame check sequence is.
        let link = LinkType((u32_at(window, 20, big) & 0xffff) as u16);
        Some((Self::Pcap { big, nanos, record_header, link }, 24))
    }

    /// The next record of a non-empty window.
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
        return Step::Damaged(format!("its record claims {len} octets"));
    }
    let consumed = header + len as usize;
    if window.len() < consumed {
        return Step::NeedMore(consumed);
    }
    let fraction = u64::from(u32_at(window, 4, big));
    let fraction = if nanos { fraction } else { fraction * 1000 };
    let timestamp = Nanos(u64::from(u32_at(window, 0, big)) * 1_000_000_000 + fraction);
    Step::Frame { consumed, timestamp, link, wire_len: u32_at(window, 12, big), at: header, len }
}

fn pcapng_block(window: &[u8], big: &mut bool, interfaces: &mut Vec<InterfaceSlot>) -> Step {
    if window.len() < 12 {
        return Step::NeedMore(12);
    }
    if window[..4] == [0x0a, 0x0d, 0x0d, 0x0a] {
        match window[8..12] {
            [0x1a, 0x2b, 0x3c, 0x4d] => *big = true,
            [0x4d, 0x3c, 0x2b, 0x1a] => *big = false,
            _ => return Step::Damaged("its section header has no octet-order magic".into()),
        }
        interfaces.clear();
    }
    let (kind, length) = (u32_at(window, 0, *big), u32_at(window, 4, *big) as usize);
    if !(12..=MAX_RECORD).contains(&length) {
        return Step::Damaged(format!("its block claims {length} octets"));
    }
    let consumed = length.div_ceil(4) * 4;
    if window.len() < consumed {
        return Step::NeedMore(consumed);
    }
    let body = &window[8..length - 4];
    let interface = |number: u32| interfaces.get(number as usize).and_then(|i| i.0);
    match kind {
        1 => {
            if interfaces.len() >= MAX_INTERFACES {
                return Step::Damaged(format!("it has more than {MAX_INTERFACES} interfaces"));
            }
            interfaces.push(InterfaceSlot(parse_interface(body, *big)));
            Step::Skip(consumed)
        }
        // Enhanced packet block, and the obsolete packet block, which differs in its first four octets.
        6 | 2 if body.len() >= 20 => {
            let number = if kind == 6 { u32_at(body, 0, *big) } else { u32::from(u16_at(body, 0, *big)) };
            let Some(interface) = interface(number) else {
                return Step::Damaged(format!("its packet names interface {number}, which was not described"));
            };
            let ticks = u64::from(u32_at(body, 4, *big)) << 32 | u64::from(u32_at(body, 8, *big));
            let len = u32_at(body, 12, *big);
            if len as usize > body.len() - 20 {
                return Step::Damaged(format!("its packet claims {len} octets in a block of {length}"));
            }
            Step::Frame {
                consumed,
                timestamp: interface.time(ticks),
                link: interface.link,
                wire_len: u32_at(body, 16, *big),
                at: 28,
                len,
            }
        }
        3 if body.len() >= 4 => {
            let Some(interface) = interface(0) else {
                return Step::Damaged("its packet comes before any interface".into());
            };
            let wire_len = u32_at(body, 0, *big);
            let mut len = wire_len.min((body.len() - 4) as u32);
            if interface.snaplen > 0 {
                len = len.min(interface.snaplen);
            }
            Step::Frame { consumed, timestamp: Nanos(0), link: interface.link, wire_len, at: 12, len }
        }
        _ => Step::Skip(consumed),
    }
}

impl FileInterface {
    fn time(&self, ticks: u64) -> Nanos {
        let nanos = u128::from(ticks) * u128::from(self.numerator) / u128::from(self.denominator);
        let nanos = i128::try_from(nanos).unwrap_or(i128::MAX).saturating_add(i128::from(self.offset) * 1_000_000_000);
        Nanos(u64::try_from(nanos.max(0)).unwrap_or(u64::MAX))
    }
}

fn parse_interface(body: &[u8], big: bool) -> Option<FileInterface> {
    if body.len() < 8 {
        return None;
    }
    let (mut numerator, mut denominator, mut offset) = (1000, 1, 0);
    let mut at = 8;
    while at + 4 <= body.len() {
        let (code, size) = (u16_at(body, at, big), usize::from(u16_at(body, at + 2, big)));
        let Some(value) = body.get(at + 4..at + 4 + size) else { break };
        match (code, value) {
            (0, _) => break,
            (9, [resolution]) => {
                let exponent = u32::from(resolution & 0x7f);
                (numerator, denominator) = if resolution & 0x80 != 0 {
                    (1_000_000_000, 1u64.checked_shl(exponent)?)
                } else if exponent <= 9 {
                    (10u64.pow(9 - exponent), 1)
                } else {
                    (1, 10u64.checked_pow(exponent - 9)?)
                };
            }
            (14, value) if value.len() == 8 => {
                let bytes: [u8; 8] = value.try_into().ok()?;
                offset = if big { i64::from_be_bytes(bytes) } else { i64::from_le_bytes(bytes) };
            }
            _ => {}
        }
        at += 4 + size.div_ceil(4) * 4;
    }
    Some(FileInterface { link: LinkType(u16_at(body, 0, big)), numerator, denominator, offset, snaplen: u32_at(body, 4, big) })
}
