//! A writer of pcapng captures whose packets have comments (draft-ietf-opsawg-pcapng).
//!
//! A file has one section, an interface for each link type, and timestamps in nanoseconds. Each packet is one write of whole blocks.

use std::io::{self, Write};

use crate::capture::{LinkType, Nanos};

/// A packet to be written.
#[derive(Clone, Copy, Debug)]
pub struct PcapngPacket<'a> {
    /// Time of capture.
    pub timestamp: Nanos,
    /// Link type of the interface it was captured on.
    pub link: LinkType,
    /// Length on the wire, in bytes; `bytes` may be shorter.
    pub wire_len: u32,
    /// The captured bytes.
    pub bytes: &'a [u8],
    /// Comment that Wireshark shows with the packet; cut after 65,535 bytes.
    pub comment: &'a str,
}

// Block types.
const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
// Option codes.
const COMMENT: u16 = 1;
const USER_APPLICATION: u16 = 4;
const TIME_RESOLUTION: u16 = 9;

/// Writes one pcapng file.
#[derive(Debug)]
pub struct PcapngWriter<W> {
    out: W,
    /// Link types by interface number.
    links: Vec<LinkType>,
    buffer: Vec<u8>,
    written: u64,
}

impl<W: Write> PcapngWriter<W> {
    /// Starts a file by writing its section header.
    ///
    /// # Errors
    /// If `out` can't be written to.
    pub fn new(out: W) -> io::Result<Self> {
        let mut writer = Self { out, links: Vec::new(), buffer: Vec::new(), written: 0 };
        block(&mut writer.buffer, SECTION, |body| {
            body.extend_from_slice(&0x1a2b_3c4d_u32.to_le_bytes());
            // Version 1.0, section of unknown length.
            body.extend_from_slice(&[1, 0, 0, 0]);
            body.extend_from_slice(&u64::MAX.to_le_bytes());
            option(body, USER_APPLICATION, concat!("spiked ", env!("CARGO_PKG_VERSION")).as_bytes());
            option(body, 0, &[]);
        });
        writer.out.write_all(&writer.buffer)?;
        writer.written = writer.buffer.len() as u64;
        Ok(writer)
    }

    /// Writes a packet.
    ///
    /// # Errors
    /// If `out` can't be written to. The file may then end with a partial block, after [`PcapngWriter::written`] bytes of whole blocks.
    pub fn packet(&mut self, packet: &PcapngPacket<'_>) -> io::Result<()> {
        self.buffer.clear();
        let known = self.links.iter().position(|&l| l == packet.link);
        let number = known.unwrap_or(self.links.len()) as u32;
        if known.is_none() {
            block(&mut self.buffer, INTERFACE, |body| {
                body.extend_from_slice(&packet.link.0.to_le_bytes());
                // Reserved (2 bytes), and a snapshot length of 0: no limit.
                body.extend_from_slice(&[0; 6]);
                option(body, TIME_RESOLUTION, &[9]);
                option(body, 0, &[]);
            });
        }
        block(&mut self.buffer, ENHANCED_PACKET, |body| {
            let (high, low) = ((packet.timestamp.0 >> 32) as u32, packet.timestamp.0 as u32);
            for word in [number, high, low, packet.bytes.len() as u32, packet.wire_len] {
                body.extend_from_slice(&word.to_le_bytes());
            }
            body.extend_from_slice(packet.bytes);
            pad(body, packet.bytes.len());
            let comment = packet.comment.as_bytes();
            option(body, COMMENT, &comment[..comment.len().min(usize::from(u16::MAX))]);
            option(body, 0, &[]);
        });
        self.out.write_all(&self.buffer)?;
        if known.is_none() {
            self.links.push(packet.link);
        }
        self.written += self.buffer.len() as u64;
        Ok(())
    }

    /// Number of bytes of whole blocks written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// The underlying writer.
    pub fn get_mut(&mut self) -> &mut W {
        &mut self.out
    }
}

/// Appends a block, whose total length stands before and after its body.
fn block(out: &mut Vec<u8>, kind: u32, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    fill(out);
    let length = ((out.len() - start + 4) as u32).to_le_bytes();
    out.extend_from_slice(&length);
    out[start + 4..start + 8].copy_from_slice(&length);
}

/// Appends an option; code 0 ends the options of a block.
fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    out.extend_from_slice(&code.to_le_bytes());
    out.extend_from_slice(&(value.len() as u16).to_le_bytes());
    out.extend_from_slice(value);
    pad(out, value.len());
}

/// Pads with zeros to a multiple of four bytes, as blocks and options require.
fn pad(out: &mut Vec<u8>, length: usize) {
    out.resize(out.len() + length.next_multiple_of(4) - length, 0);
}
