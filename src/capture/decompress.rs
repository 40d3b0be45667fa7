//! Decompression of gzip and zstd captures, with a bound on what a small file may expand to.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// zstd windows above 128 MiB are refused: a small file must not be able to claim all memory.
const ZSTD_WINDOW_LOG: u32 = 27;
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

/// Returns a reader of the decompressed content of `reader`, whose first bytes are `start`; `reader` itself if these are neither
/// gzip's (RFC 1952) nor zstd's (RFC 8878) magic number.
///
/// # Errors
/// If the zstd decoder can't be created.
pub(crate) fn decompress(start: &[u8], reader: impl Read + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
    let compressed = Arc::new(AtomicU64::new(0));
    let counted = |inner| CountingReader { inner, bytes: Arc::clone(&compressed) };
    Ok(match start {
        [0x1f, 0x8b, ..] => {
            let decoder = flate2::read::MultiGzDecoder::new(counted(reader));
            Box::new(CappedReader { decoder, compressed, decompressed: 0 })
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let mut decoder = zstd::stream::read::Decoder::new(counted(reader))?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(CappedReader { decoder, compressed, decompressed: 0 })
        }
        _ => Box::new(reader),
    })
}
