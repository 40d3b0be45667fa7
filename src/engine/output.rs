//! Ordered output: what each shard found in a batch, merged into the order of the packets.

use crossbeam_channel::Receiver;

use crate::packet::Address;

use super::episodes::{EpisodeObserver, is_open};
use super::{EvidencePacket, Verdict, VerdictWriter};

/// A flow whose leading class has episodes.
pub(super) struct Spike {
    pub verdict: Verdict,
    /// The hosts that an ARP packet is about; `None` if they are the ends of the verdict's stream.
    pub arp_hosts: Option<[Address; 2]>,
    /// Whether the flow has spiked before: the packets and bytes of the verdict are those since then.
    pub again: bool,
    /// What the last spike of the flow added if this one replaces it, 0 to 1; else 0.
    pub replaces: f32,
}

/// What one shard found: in one batch, or among the streams that ended with the source.
#[derive(Default)]
pub(super) struct BatchOutput {
    pub verdicts: Vec<Verdict>,
    /// Text of the verdicts, one after the other; empty without a writer.
    text: Vec<u8>,
    /// The end of each verdict's text.
    text_ends: Vec<usize>,
    pub packets: Vec<EvidencePacket>,
    /// Flows whose leading class has episodes.
    pub spikes: Vec<Spike>,
    /// Verdicts that the observer has received.
    observed: usize,
}

/// Verdicts in one output when streams end with the source.
const MAX_FINAL_VERDICTS: usize = 256;

impl BatchOutput {
    /// Whether the output should be sent before more streams end with the source.
    pub fn is_full(&self) -> bool {
        self.verdicts.len() >= MAX_FINAL_VERDICTS
    }

    /// Sorts the verdicts, then formats them. With a writer, verdicts without text are removed, except [open](is_open) ones: the caller's thread
    /// formats those.
    pub fn complete(&mut self, writer: Option<&mut (dyn VerdictWriter + 'static)>) {
        self.verdicts.sort_by(|a, b| a.order().cmp(&b.order()));
        let (Some(writer), Self { verdicts, text, text_ends, .. }) = (writer, self) else { return };
        verdicts.retain(|verdict| {
            let start = text.len();
            let open = is_open(verdict);
            if !open {
                writer.write(verdict, text);
            }
            let is_kept = open || text.len() > start;
            if is_kept {
                text_ends.push(text.len());
            }
            is_kept
        });
    }

    fn next(&self) -> Option<&Verdict> {
        self.verdicts.get(self.observed)
    }

    fn emit_next(&mut self, observer: &mut EpisodeObserver<'_>) {
        let verdict = &self.verdicts[self.observed];
        let start = self.observed.checked_sub(1).and_then(|before| self.text_ends.get(before)).map_or(0, |&end| end);
        let end = self.text_ends.get(self.observed).map_or(start, |&end| end);
        observer.verdict(verdict, &self.text[start..end]);
        self.observed += 1;
    }

    /// Passes everything to the observer; the output is empty afterwards.
    pub fn emit(&mut self, observer: &mut EpisodeObserver<'_>) {
        merge(std::slice::from_mut(self), observer);
    }

    /// Empties the output and keeps its allocations.
    fn clear(&mut self) {
        self.packets.clear();
        self.spikes.clear();
        self.verdicts.clear();
        self.text.clear();
        self.text_ends.clear();
        self.observed = 0;
    }
}

fn emit_packets(mut packets: Vec<EvidencePacket>, observer: &mut EpisodeObserver<'_>) {
    packets.sort_by(|a, b| (a.packet, a.model_index, &a.key).cmp(&(b.packet, b.model_index, &b.key)));
    observer.packets(&packets);
}

/// The output whose next verdict is the first of all.
fn first<'a>(outputs: impl Iterator<Item = &'a mut BatchOutput>) -> Option<&'a mut BatchOutput> {
    let order = |output: &&mut BatchOutput, other: &&mut BatchOutput| {
        output.next().map(Verdict::order).cmp(&other.next().map(Verdict::order))
    };
    outputs.filter(|output| output.next().is_some()).min_by(order)
}

/// Merges the outputs of all shards for one batch. They are empty afterwards.
pub(super) fn merge(outputs: &mut [BatchOutput], observer: &mut EpisodeObserver<'_>) {
    let mut spikes: Vec<Spike> = outputs.iter_mut().flat_map(|output| std::mem::take(&mut output.spikes)).collect();
    spikes.sort_by(|a, b| a.verdict.order().cmp(&b.verdict.order()));
    let mut spikes = spikes.iter().peekable();
    // Whether a stream is part of an episode when it ends depends on the spikes before, and not on where batches begin.
    while let Some(output) = first(outputs.iter_mut()) {
        while let Some(spike) = spikes.next_if(|spike| Some(spike.verdict.order()) < output.next().map(Verdict::order)) {
            observer.spike(spike);
        }
        output.emit_next(observer);
    }
    spikes.for_each(|spike| observer.spike(spike));
    emit_packets(outputs.iter_mut().flat_map(|output| std::mem::take(&mut output.packets)).collect(), observer);
    outputs.iter_mut().for_each(BatchOutput::clear);
}

/// Merges the outputs for the streams that ended with the source. Each shard sends its own in order, in parts.
pub(super) fn merge_final(shards: Vec<Receiver<BatchOutput>>, observer: &mut EpisodeObserver<'_>) {
    let mut parts: Vec<_> = shards.into_iter().map(|shard| (shard, BatchOutput::default())).collect();
    let mut packets = Vec::new();
    loop {
        // A shard without a verdict at hand may still send the first one, so each has to be waited for.
        for (shard, part) in &mut parts {
            while part.next().is_none()
                && let Ok(mut next) = shard.recv()
            {
                packets.append(&mut next.packets);
                *part = next;
            }
        }
        let Some(output) = first(parts.iter_mut().map(|(_, part)| part)) else { break };
        output.emit_next(observer);
    }
    emit_packets(packets, observer);
}
