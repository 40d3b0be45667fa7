//! Packets without content that are scored only if their stream ends without content, or sends more of them.
//!
//! The evidence of packets without content is discarded when content arrives ([`Decision::content_first`]), and nothing is reported before.
//! So the packets of most TCP handshakes need not be scored at all: their slot values are kept, by the stream's row of evidence.
//!
//! [`Decision::content_first`]: crate::stream::Decision::content_first

use crate::encode::Volley;

use super::evidence_rows::EvidenceRow;

/// Packets of a stream that are deferred: those of a TCP handshake. With the next one all are scored.
const PACKETS: usize = 3;

/// Rows of evidence that have room for deferred packets, so that all take less than a megabyte.
const ROWS: usize = 2048;

/// Volleys of the deferred packets of each row.
pub(super) struct DeferredPackets {
    /// Packets of a stream that are deferred at most.
    limit: usize,
    /// Words of a volley.
    width: usize,
    /// `[row, packet, word]`.
    words: Vec<u16>,
    /// Number of packets, `[row]`.
    counts: Vec<u8>,
}

impl DeferredPackets {
    /// No packets, for a layout of `slots` slots and at most `max_packets` packets of a stream.
    pub fn new(slots: usize, max_packets: u32) -> Self {
        let limit = PACKETS.min(max_packets as usize);
        Self { limit, width: Volley::words(slots), words: Vec::new(), counts: Vec::new() }
    }

    /// Keeps a packet of the stream that owns `row`. Returns `false`, without a change, if the stream has too many or its row
    /// has no room for any.
    pub fn push(&mut self, row: EvidenceRow, volley: &Volley) -> bool {
        let row = row.index();
        if row >= ROWS {
            return false;
        }
        if row >= self.counts.len() {
            self.counts.resize(row + 1, 0);
            self.words.resize((row + 1) * PACKETS * self.width, 0);
        }
        let count = usize::from(self.counts[row]);
        if count >= self.limit {
            return false;
        }
        volley.store(&mut self.words[(row * PACKETS + count) * self.width..][..self.width]);
        self.counts[row] += 1;
        true
    }

    /// Number of packets of a row.
    pub fn count(&self, row: EvidenceRow) -> usize {
        self.counts.get(row.index()).copied().unwrap_or(0).into()
    }

    /// A packet of a row. `number` is less than its [count](DeferredPackets::count).
    pub fn volley(&self, row: EvidenceRow, number: usize) -> Volley {
        Volley::load(&self.words[(row.index() * PACKETS + number) * self.width..][..self.width])
    }

    /// Removes the packets of a row.
    pub fn clear(&mut self, row: EvidenceRow) {
        if let Some(count) = self.counts.get_mut(row.index()) {
            *count = 0;
        }
    }
}
