//! Which volleys does the teacher have? Labelled captures, decoded and encoded as in reading.

use std::path::{Path, PathBuf};

use crate::capture::{CaptureError, CaptureFile, FrameBatch, Source};
use crate::encode::{Layout, Volley};
use crate::packet::{Decoder, KeyKind};
use crate::stream::Streams;

use super::labels::{Labels, StreamName};

/// One stream of the corpus.
#[derive(Clone, Debug)]
pub struct LabelledStream {
    /// Index into [`Corpus::captures`].
    pub capture: u32,
    pub class: u16,
    pub name: StreamName,
    /// All packets and octets of the stream.
    pub packets: u64,
    pub bytes: u64,
    /// First volley and number of volleys kept.
    pub first: usize,
    pub kept: usize,
}

/// Volleys of labelled streams, in one allocation.
#[derive(Debug)]
pub struct Corpus {
    pub key: KeyKind,
    pub layout: Layout,
    pub classes: Vec<String>,
    pub captures: Vec<String>,
    pub streams: Vec<LabelledStream>,
    slots: Vec<u16>,
}

/// What came of the labels.
#[derive(Debug, Default)]
pub struct Gathered {
    /// Captures that could not be read, with the reason.
    pub unreadable: Vec<String>,
    /// Captures that were cut.
    pub cut: Vec<String>,
    /// Labelled streams that are not in their capture.
    pub missing: Vec<String>,
}

/// Why no corpus could be made.
#[derive(Debug, thiserror::Error)]
pub enum CorpusError {
    #[error(
        "none of the {0} labelled streams was found in its capture below {1}; check --captures (paths in label files are relative to it)"
    )]
    Nothing(usize, PathBuf),
    #[error(transparent)]
    Capture(#[from] CaptureError),
}

impl Corpus {
    /// Reads all labelled captures below `folder`. What can't be found is counted and named in [`Gathered`]; the rest is used.
    ///
    /// # Errors
    /// Where not one labelled stream was found.
    pub fn gather(
        labels: &Labels,
        folder: &Path,
        layout: Layout,
        packets_per_stream: usize,
        decoder: &Decoder,
        tick: &dyn Fn(),
    ) -> Result<(Self, Gathered), CorpusError> {
        let mut corpus = Self {
            key: labels.key,
            layout,
            classes: labels.classes.clone(),
            captures: Vec::new(),
            streams: Vec::new(),
            slots: Vec::new(),
        };
        let mut gathered = Gathered::default();
        for (capture, names) in &labels.captures {
            tick();
            let mut file = match CaptureFile::open(&folder.join(capture)) {
                Ok(file) => file,
                Err(error) => {
                    gathered.unreadable.push(error.to_string());
                    continue;
                }
            };
            let number = corpus.captures.len() as u32;
            corpus.captures.push(capture.clone());
            let mut found = std::collections::HashSet::new();
            corpus.read_capture(&mut file, number, packets_per_stream, decoder, &mut |name| {
                let class = names.get(name).copied();
                if class.is_some() {
                    found.insert(name.clone());
                }
                class
            })?;
            if let Some(cut) = file.cut() {
                gathered.cut.push(format!("{capture}: {cut}"));
            }
            let mut missing: Vec<_> = names.keys().filter(|n| !found.contains(n)).collect();
            missing.sort();
            gathered.missing.extend(missing.iter().map(|name| format!("{capture}: no stream {name}")));
        }
        if corpus.streams.is_empty() {
            return Err(CorpusError::Nothing(labels.rows, folder.to_path_buf()));
        }
        Ok((corpus, gathered))
    }

    /// An empty corpus, to be filled with [`Corpus::read_capture`].
    pub fn new(key: KeyKind, layout: Layout, classes: Vec<String>) -> Self {
        Self { key, layout, classes, captures: Vec::new(), streams: Vec::new(), slots: Vec::new() }
    }

    /// Adds the streams of one capture that `class_of` gives a class.
    ///
    /// # Errors
    /// Where the capture can't be read any further.
    pub fn read_capture(
        &mut self,
        source: &mut dyn Source,
        capture: u32,
        packets_per_stream: usize,
        decoder: &Decoder,
        class_of: &mut dyn FnMut(&StreamName) -> Option<u16>,
    ) -> Result<(), CaptureError> {
        struct Open {
            class: Option<u16>,
            name: StreamName,
            slots: Vec<u16>,
        }
        let width = self.layout.slots().len();
        let mut streams: Streams<Open> = Streams::new(self.key);
        let mut batch = FrameBatch::new();
        let mut volley = Volley::default();
        while source.fill(&mut batch)? {
            for frame in batch.iter() {
                let Ok(headers) = decoder.decode(frame.link.0, frame.bytes) else { continue };
                streams.packet(
                    &headers,
                    &frame,
                    |key| {
                        let name = StreamName::of(key);
                        Open { class: class_of(&name), name, slots: Vec::new() }
                    },
                    |stream, context| {
                        let open = &mut stream.state;
                        if open.class.is_some() && open.slots.len() < packets_per_stream * width {
                            self.layout.encode(&headers, frame.bytes, context, &mut volley);
                            open.slots.extend_from_slice(&volley.slots[..width]);
                        }
                    },
                );
            }
        }
        for stream in streams.into_ended() {
            if let Some(class) = stream.state.class {
                self.streams.push(LabelledStream {
                    capture,
                    class,
                    name: stream.state.name,
                    packets: stream.packets,
                    bytes: stream.bytes,
                    first: self.slots.len() / width,
                    kept: stream.state.slots.len() / width,
                });
                self.slots.extend_from_slice(&stream.state.slots);
            }
        }
        Ok(())
    }

    /// The slot values of one volley.
    pub fn volley(&self, index: usize) -> &[u16] {
        let width = self.layout.slots().len();
        &self.slots[index * width..][..width]
    }

    /// All volleys.
    pub fn volleys(&self) -> usize {
        self.slots.len() / self.layout.slots().len()
    }
}
