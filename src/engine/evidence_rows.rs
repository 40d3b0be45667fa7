//! Evidence of the undecided streams: one row of sums for each stream, in a bounded pool.

use crate::stream::StreamIndex;
use crate::typed_index::typed_index;

typed_index! {
    /// A row of evidence, by its place in its [`EvidenceRows`].
    EvidenceRow(u32)
}

/// Share of a model's streams that may have a row at once: 1 in this many.
const ROWS_SHARE: usize = 16;
/// Smallest limit of rows, however few streams there may be.
const MIN_ROWS: usize = 64;
/// Largest limit of rows: 29 bits, without the largest number, which marks a stream without a row.
const MAX_ROWS: usize = (u32::MAX >> 3) as usize - 1;
/// Rows compared to find one that is taken from its stream.
const ROWS_COMPARED: usize = 16;
/// Bytes of evidence of one model in one shard. Without this limit a model of 16,384 classes would take gigabytes.
const MAX_EVIDENCE_BYTES: usize = 256 << 20;

/// A pool of rows. It holds as many rows as were ever needed at once, up to its limit.
pub(super) struct EvidenceRows {
    /// Numbers of a row.
    width: usize,
    limit: usize,
    /// All rows, `[row, number]`.
    sums: Vec<f32>,
    /// The stream that each row belongs to.
    owners: Vec<StreamIndex>,
    free: Vec<EvidenceRow>,
    /// The row at which the next comparison begins.
    next_compared: usize,
}

impl EvidenceRows {
    /// An empty pool of rows of `width` numbers, for at most `streams` streams, decided or not.
    pub fn new(width: usize, streams: usize) -> Self {
        let room = MAX_EVIDENCE_BYTES / (width.max(1) * size_of::<f32>());
        let limit = (streams / ROWS_SHARE).min(room).clamp(MIN_ROWS, MAX_ROWS);
        Self { width, limit, sums: Vec::new(), owners: Vec::new(), free: Vec::new(), next_compared: 0 }
    }

    /// Sets the evidence of all rows to 0 and their length to `width`. The rows keep their owners.
    pub fn reset(&mut self, width: usize) {
        self.width = width;
        self.sums.clear();
        self.sums.resize(self.owners.len() * width, 0.0);
    }

    /// Records that the stream that owns `row` has moved to `owner`.
    pub fn set_owner(&mut self, row: EvidenceRow, owner: StreamIndex) {
        self.owners[row.index()] = owner;
    }

    /// The evidence of a row.
    #[inline]
    pub fn sums(&mut self, row: EvidenceRow) -> &mut [f32] {
        &mut self.sums[row.index() * self.width..][..self.width]
    }

    /// The streams among which the next call of [`EvidenceRows::allocate`] chooses one that loses its row; none while there are free rows.
    pub fn candidates(&self) -> impl Iterator<Item = StreamIndex> + '_ {
        let exhausted = self.free.is_empty() && self.owners.len() >= self.limit;
        let compared = if exhausted { ROWS_COMPARED } else { 0 };
        (0..compared).map(|step| self.owners[(self.next_compared + step) % self.limit])
    }

    /// Allocates a row of zeros for the stream `owner`. When the pool is exhausted, the row is taken from another stream, which is
    /// returned. Of the next rows in turn, those whose streams had no content yet lose theirs first, since their evidence begins again with it; among
    /// equals, the one with the least evidence for any class, as streams of a flood have. `evidence`: whether it is of content, and how much.
    pub fn allocate(
        &mut self,
        owner: StreamIndex,
        evidence: impl Fn(StreamIndex) -> (bool, f32),
    ) -> (EvidenceRow, Option<StreamIndex>) {
        let (row, previous_owner) = if let Some(row) = self.free.pop() {
            (row, None)
        } else if self.owners.len() < self.limit {
            self.owners.push(owner);
            self.sums.resize(self.owners.len() * self.width, 0.0);
            (EvidenceRow::from_index(self.owners.len() - 1), None)
        } else {
            let compared = (0..ROWS_COMPARED).map(|step| (self.next_compared + step) % self.limit);
            let least = |a: &usize, b: &usize| {
                let [a, b] = [a, b].map(|row| evidence(self.owners[*row]));
                a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
            };
            let row = compared.min_by(least).unwrap_or(self.next_compared);
            self.next_compared = (self.next_compared + ROWS_COMPARED) % self.limit;
            (EvidenceRow::from_index(row), Some(self.owners[row]))
        };
        self.owners[row.index()] = owner;
        self.sums(row).fill(0.0);
        (row, previous_owner)
    }

    /// Returns a row to the pool.
    pub fn release(&mut self, row: EvidenceRow) {
        self.free.push(row);
    }
}
