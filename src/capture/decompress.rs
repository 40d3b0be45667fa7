//! How far may a packed capture unfold? gzip and zstd, with a bound on what a small file may become.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// zstd windows above 128 MiB are refused: a small file must not ask for all memory.
const ZSTD_WINDOW_LOG: u32 = 27;
/// Octets that any packed capture may unfold to.
const FREE: u64 = 256 << 20;
/// Octets that each packed octet may unfold to beyond that. Captures of traffic pack 2 to 20 times; a SYN flood of distinct
/// addresses, which is as even as traffic gets, some 10 times. Bombs reach 1,000 times (gzip) and far more (zstd).
const RATIO: u64 = 200;

/// Counts what is read through it.
struct CountingReader<R> {
    inner: R,
    octets: Arc<AtomicU64>,
}

impl<R: Read> Read for CountingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.octets.fetch_add(read as u64, Relaxed);
        Ok(read)
    }
}

/// Ends with an error where more comes out than [`FREE`] and [`RATIO`] allow.
struct CappedReader<R> {
    unpacker: R,
    packed: Arc<AtomicU64>,
    unpacked: u64,
}

impl<R: Read> Read for CappedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let packed = self.packed.load(Relaxed);
        if self.unpacked > FREE.saturating_add(packed.saturating_mul(RATIO)) {
            let unpacked = self.unpacked;
            return Err(io::Error::other(format!(
                "{packed} packed octets have become {unpacked}, which is more than {RATIO} times as many, as in a decompression \
                 bomb; unpack it first if it is none"
            )));
        }
        let read = self.unpacker.read(buffer)?;
        self.unpacked += read as u64;
        Ok(read)
    }
}

/// What `reader`, which begins with `start`, holds once it is unpacked; itself where it is not packed.
pub(super) fn unpack(start: &[u8], reader: impl Read + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
    let packed = Arc::new(AtomicU64::new(0));
    let counted = |inner| CountingReader { inner, octets: Arc::clone(&packed) };
    Ok(match start {
        [0x1f, 0x8b, ..] => {
            let unpacker = flate2::read::MultiGzDecoder::new(counted(reader));
            Box::new(CappedReader { unpacker, packed, unpacked: 0 })
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let mut unpacker = zstd::stream::read::Decoder::new(counted(reader))?;
            unpacker.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(CappedReader { unpacker, packed, unpacked: 0 })
        }
        _ => Box::new(reader),
    })
}
