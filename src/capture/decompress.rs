//! Decompression of gzip, zstd, xz and lz4 captures, with a bound on what a small file may expand to.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use flate2::bufread::GzDecoder;
use lz4_flex::frame::FrameDecoder;

/// zstd windows above 128 MiB are refused: a small file must not be able to claim all memory.
const ZSTD_WINDOW_LOG: u32 = 27;
/// Memory that an xz decoder may take, in KiB, for the same reason: `xz -9` takes half of it.
const XZ_MEMORY: u32 = 128 << 10;
/// Skippable frames (RFC 8878, section 3.1.2), which zstd and lz4 share: bytes of the magic number and the length, and most of them
/// in front of a capture.
const SKIPPABLE_LEN: u64 = 8;
const MAX_SKIPPABLE: usize = 64;
/// Bytes that any compressed capture may expand to.
const ALLOWANCE: u64 = 256 << 20;
/// Bytes that each compressed byte may expand to beyond [`ALLOWANCE`]. Captures of traffic compress 2 to 20 times; a SYN flood of
/// distinct addresses, which is as uniform as traffic gets, some 10 times. Bombs reach 1,000 times (gzip) and far more (zstd).
const MAX_RATIO: u64 = 200;

/// Counts the compressed bytes that are read through it.
struct CountingReader<R> {
    inner: R,
    bytes: Arc<AtomicU64>,
}

impl<R: Read> Read for CountingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.bytes.fetch_add(read as u64, Relaxed);
        Ok(read)
    }
}

/// Fails once more has come out than [`ALLOWANCE`] and [`MAX_RATIO`] permit.
struct CappedReader<R> {
    decoder: R,
    compressed: Arc<AtomicU64>,
    decompressed: u64,
}

impl<R: Read> Read for CappedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (compressed, decompressed) = (self.compressed.load(Relaxed), self.decompressed);
        if decompressed > ALLOWANCE.saturating_add(compressed.saturating_mul(MAX_RATIO)) {
            return Err(io::Error::other(format!(
                "{compressed} compressed bytes have expanded to {decompressed}, which is more than {MAX_RATIO} times as many and looks \
                 like a decompression bomb; if the file is genuine, decompress it first"
            )));
        }
        let read = self.decoder.read(buffer)?;
        self.decompressed += read as u64;
        Ok(read)
    }
}

/// Skips zeros, which tapes and block devices leave behind a file; whether nothing else follows.
fn only_zeros_follow(reader: &mut impl BufRead) -> io::Result<bool> {
    loop {
        let buffer = reader.fill_buf()?;
        let zeros = buffer.iter().take_while(|&&byte| byte == 0).count();
        if zeros < buffer.len() || buffer.is_empty() {
            let ended = buffer.is_empty();
            reader.consume(zeros);
            return Ok(ended);
        }
        reader.consume(zeros);
    }
}

/// The members of a gzip file or the frames of an lz4 file, with zeros behind the last. Each has a decoder of its own.
struct Members<R, D> {
    decoder: Option<D>,
    /// Makes the decoder of a member that the reader is at.
    begin: fn(BufReader<R>) -> D,
    /// The reader behind a member that was decoded.
    end: fn(D) -> BufReader<R>,
}

impl<R: Read, D> Members<R, D> {
    fn new(reader: R, begin: fn(BufReader<R>) -> D, end: fn(D) -> BufReader<R>) -> Self {
        Self { decoder: Some(begin(BufReader::new(reader))), begin, end }
    }
}

impl<R: Read, D: Read> Read for Members<R, D> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(decoder) = &mut self.decoder {
            let read = decoder.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            let Some(mut rest) = self.decoder.take().map(self.end) else { break };
            if !only_zeros_follow(&mut rest)? {
                self.decoder = Some((self.begin)(rest));
            }
        }
        Ok(0)
    }
}

/// The first `length` bytes of `reader`, and a reader of all of it.
fn peek(mut reader: Box<dyn Read + Send>, length: usize) -> io::Result<(Vec<u8>, Box<dyn Read + Send>)> {
    let mut start = Vec::new();
    reader.by_ref().take(length as u64).read_to_end(&mut start)?;
    let whole = io::Cursor::new(start.clone()).chain(reader);
    Ok((start, Box::new(whole)))
}

/// What a compressed file begins with.
#[derive(Clone, Copy)]
enum Compression {
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
    Xz,
    /// Frames of either version.
    Lz4,
    /// A skippable frame, behind which a frame of zstd or lz4 may follow.
    Skippable,
}

impl Compression {
    /// By the magic number.
    fn of(start: &[u8]) -> Option<Self> {
        Some(match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [0x04, 0x22, 0x4d, 0x18, ..] | [0x02, 0x21, 0x4c, 0x18, ..] => Self::Lz4,
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Skippable,
            _ => return None,
        })
    }
}

/// Whether a file that begins with `start` is compressed, or begins with a skippable frame: [`decompress`] would not return it as it is.
pub(super) fn is_compressed(start: &[u8]) -> bool {
    Compression::of(start).is_some()
}

/// Returns a reader of the decompressed content of `reader`, whose first bytes are `start`; `reader` itself if these are not the
/// magic number of gzip, zstd, xz or lz4, behind skippable frames.
///
/// # Errors
/// If the file can't be read, or the zstd decoder can't be created.
pub(crate) fn decompress(start: &[u8], reader: impl Read + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
    let compressed = Arc::new(AtomicU64::new(0));
    let mut reader: Box<dyn Read + Send> = Box::new(CountingReader { inner: reader, bytes: Arc::clone(&compressed) });
    let mut start = start.to_vec();
    for _ in 0..MAX_SKIPPABLE {
        let (Some(Compression::Skippable), &[_, _, _, _, l0, l1, l2, l3, ..]) = (Compression::of(&start), &start[..]) else {
            break;
        };
        let length = SKIPPABLE_LEN + u64::from(u32::from_le_bytes([l0, l1, l2, l3]));
        io::copy(&mut reader.by_ref().take(length), &mut io::sink())?;
        (start, reader) = peek(reader, start.len())?;
    }
    let decoder: Box<dyn Read + Send> = match Compression::of(&start) {
        Some(Compression::Gzip) => Box::new(Members::new(reader, GzDecoder::new, GzDecoder::into_inner)),
        Some(Compression::Zstd) => {
            let mut decoder = zstd::stream::read::Decoder::new(reader)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
        Some(Compression::Xz) => Box::new(lzma_rust2::XzReader::new_mem_limit(BufReader::new(reader), true, XZ_MEMORY)),
        Some(Compression::Lz4) => Box::new(Members::new(reader, FrameDecoder::new, FrameDecoder::into_inner)),
        Some(Compression::Skippable) | None => return Ok(reader),
    };
    Ok(Box::new(CappedReader { decoder, compressed, decompressed: 0 }))
}
