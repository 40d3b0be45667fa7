//! What is told, and in which order is it heard? In that of the packets, whoever found it.

use crossbeam_channel::Receiver;

use super::{EvidencePacket, Observer, Verdict, Writer};

/// What one shard found: in one batch, or when its streams ended with the source.
#[derive(Default)]
pub(super) struct BatchOutput {
    pub verdicts: Vec<Verdict>,
    /// What the settings' writer wrote of the verdicts, one after the other, and where each ends.
    text: Vec<u8>,
    ends: Vec<usize>,
    pub packets: Vec<EvidencePacket>,
    /// Verdicts that the observer has heard.
    heard: usize,
}

/// Verdicts told at once when streams end with the source.
const MANY: usize = 256;

impl BatchOutput {
    pub fn is_full(&self) -> bool {
        self.verdicts.len() >= MANY
    }

    /// Puts the verdicts in order, before they are written.
    pub fn sort(&mut self) {
        self.verdicts.sort_by(|a, b| a.order().cmp(&b.order()));
    }

    /// Lets the writer hear the verdicts, and forgets those that it writes nothing of.
    pub fn write(&mut self, writer: &mut Option<Writer>) {
        let (Some(write), Self { verdicts, text, ends, .. }) = (writer, self) else { return };
        verdicts.retain(|verdict| {
            let start = text.len();
            write(verdict, text);
            let written = text.len() > start;
            if written {
                ends.push(text.len());
            }
            written
        });
    }

    fn next(&self) -> Option<&Verdict> {
        self.verdicts.get(self.heard)
    }

    fn tell_next(&mut self, observer: &mut dyn Observer) {
        observer.verdict(&self.verdicts[self.heard]);
        if let Some(&end) = self.ends.get(self.heard) {
            let start = self.heard.checked_sub(1).map_or(0, |before| self.ends[before]);
            observer.written(&self.text[start..end]);
        }
        self.heard += 1;
    }

    /// Tells all, and is empty then.
    pub fn tell(&mut self, observer: &mut dyn Observer) {
        while self.next().is_some() {
            self.tell_next(observer);
        }
        tell_packets(std::mem::take(&mut self.packets), observer);
        self.clear();
    }

    /// Forgets all and keeps the allocations.
    fn clear(&mut self) {
        self.packets.clear();
        self.verdicts.clear();
        self.text.clear();
        self.ends.clear();
        self.heard = 0;
    }
}

fn tell_packets(mut packets: Vec<EvidencePacket>, observer: &mut dyn Observer) {
    packets.sort_by_key(|p| (p.packet, p.model));
    packets.iter().for_each(|p| observer.packet(p));
}

/// Tells the oldest verdict at hand; whether there was one.
fn tell_oldest<'a>(all: impl Iterator<Item = &'a mut BatchOutput>, observer: &mut dyn Observer) -> bool {
    let oldest =
        all.filter(|t| t.next().is_some()).min_by(|a, b| a.next().map(Verdict::order).cmp(&b.next().map(Verdict::order)));
    oldest.map(|told| told.tell_next(observer)).is_some()
}

/// Tells what all shards found in one batch; empty then, to be filled again.
pub(super) fn merge(all: &mut [BatchOutput], observer: &mut dyn Observer) {
    while tell_oldest(all.iter_mut(), observer) {}
    tell_packets(all.iter_mut().flat_map(|t| std::mem::take(&mut t.packets)).collect(), observer);
    all.iter_mut().for_each(BatchOutput::clear);
}

/// Tells what the shards send piece by piece, each in order, of the streams that ended with the source.
pub(super) fn merge_rest(shards: Vec<Receiver<BatchOutput>>, observer: &mut dyn Observer) {
    let mut pieces: Vec<_> = shards.into_iter().map(|shard| (shard, BatchOutput::default())).collect();
    let mut packets = Vec::new();
    loop {
        // None is passed over while it may have the oldest.
        for (shard, piece) in &mut pieces {
            while piece.next().is_none()
                && let Ok(mut more) = shard.recv()
            {
                packets.append(&mut more.packets);
                *piece = more;
            }
        }
        if !tell_oldest(pieces.iter_mut().map(|(_, piece)| piece), observer) {
            break;
        }
    }
    tell_packets(packets, observer);
}
