//! File of the replay buffer, so that learning continues after a restart: one safetensors file per model, `MODEL.replay.safetensors`.
//!
//! Tensors: `slots` (U16, `[volley][slot]` of all streams), `volleys` (U32, number of volleys of each stream). Metadata: `replay`, JSON with the
//! key, the layout, the number of streams observed of each label, the labels of each reservoir in the order of the streams, and the
//! prequential accuracies.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};

use crate::atomic_write::replace;
use crate::encode::{Layout, SILENT};
use crate::packet::KeyKind;

use super::learner::{Prequential, ReplayBuffer};
use super::{LearnedError, Reservoir, StreamSlots};

/// One label of a reservoir.
#[derive(Serialize, Deserialize)]
struct StoredLabel {
    label: String,
    observed: u64,
    full: bool,
    streams: usize,
}

/// The metadata of the file.
#[derive(Serialize, Deserialize)]
struct BufferContents {
    key: KeyKind,
    layout: Layout,
    observed: BTreeMap<String, u64>,
    prequential: BTreeMap<String, Prequential>,
    /// The reservoirs for training, and of held-back streams.
    reservoirs: [Vec<StoredLabel>; 2],
}

fn file(folder: &Path, model: &str) -> PathBuf {
    folder.join(format!("{model}.replay.safetensors"))
}

fn broken(path: &Path, what: impl Into<String>) -> LearnedError {
    let source = std::io::Error::new(std::io::ErrorKind::InvalidData, what.into());
    LearnedError::File { path: path.into(), source }
}

/// Saves a replay buffer. The file contains header bytes of streams, so it is readable by its owner only.
///
/// # Errors
/// The folder can't be written. The file is then complete, in its old or its new state.
pub(super) fn save(memory: &ReplayBuffer, folder: &Path, model: &str) -> Result<(), LearnedError> {
    let path = file(folder, model);
    let both = [&memory.shown, &memory.held];
    let held = |reservoir: &Reservoir| {
        let of = |(label, observed, full, streams): (&str, u64, bool, &[StreamSlots])| StoredLabel {
            label: label.into(),
            observed,
            full,
            streams: streams.len(),
        };
        reservoir.labels().map(of).collect()
    };
    let contents = BufferContents {
        key: memory.key,
        layout: memory.layout.clone(),
        observed: memory.observed.clone(),
        prequential: memory.prequential.clone(),
        reservoirs: both.map(held),
    };
    let width = memory.layout.slots().len();
    let streams: Vec<&StreamSlots> =
        both.into_iter().flat_map(Reservoir::labels).flat_map(|(_, _, _, streams)| streams).collect();
    let volleys: Vec<u8> = streams.iter().flat_map(|s| ((s.len() / width) as u32).to_le_bytes()).collect();
    let slots: Vec<u8> = streams.iter().flat_map(|s| s.iter().flat_map(|v| v.to_le_bytes())).collect();
    let bytes = || -> Result<Vec<u8>, Box<dyn std::error::Error>> {
        let metadata = HashMap::from([("replay".to_string(), serde_json::to_string(&contents)?)]);
        let tensors = [
            ("slots", TensorView::new(Dtype::U16, vec![slots.len() / 2 / width, width], &slots)?),
            ("volleys", TensorView::new(Dtype::U32, vec![streams.len()], &volleys)?),
        ];
        Ok(safetensors::serialize(tensors, Some(metadata))?)
    };
    let bytes = bytes().map_err(|error| broken(&path, error.to_string()))?;
    replace(&path, 0o600, &bytes).map_err(|source| LearnedError::File { path, source })
}

/// Loads a file of [`save`] into an empty buffer. Returns whether there was a file with the same key and layout.
///
/// # Errors
/// The file can't be read or is damaged; the buffer is then empty.
pub(super) fn load(memory: &mut ReplayBuffer, folder: &Path, model: &str) -> Result<bool, LearnedError> {
    let path = file(folder, model);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(LearnedError::File { path, source }),
    };
    let read = || -> Result<(BufferContents, Vec<StreamSlots>), Box<dyn std::error::Error>> {
        let (_, header) = SafeTensors::read_metadata(&bytes)?;
        let text = header.metadata().as_ref().and_then(|m| m.get("replay")).ok_or("metadata 'replay' is missing")?;
        let contents: BufferContents = serde_json::from_str(text)?;
        let tensors = SafeTensors::deserialize(&bytes)?;
        let of = |name: &str, dtype| {
            tensors.tensor(name).ok().filter(|t| t.dtype() == dtype).ok_or("a tensor is missing or has another type")
        };
        let (slots, volleys) = (of("slots", Dtype::U16)?, of("volleys", Dtype::U32)?);
        let width = contents.layout.slots().len();
        let mut values = slots.data().chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
        let mut streams = Vec::new();
        for b in volleys.data().chunks_exact(4) {
            let volleys = u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize;
            let stream: StreamSlots = values.by_ref().take(volleys.saturating_mul(width)).collect();
            if stream.len() != volleys.saturating_mul(width) || stream.iter().any(|&v| v > 255 && v != SILENT) {
                return Err("tensor 'slots' is too short or has values out of range".into());
            }
            streams.push(stream);
        }
        let expected = contents.reservoirs.iter().flatten().map(|held| held.streams).fold(0, usize::saturating_add);
        if expected != streams.len() {
            return Err("the number of streams differs from that of the labels".into());
        }
        Ok((contents, streams))
    };
    let (contents, streams) = read().map_err(|error| broken(&path, error.to_string()))?;
    if contents.key != memory.key || contents.layout != memory.layout {
        return Ok(false);
    }
    let mut streams = streams.into_iter();
    for (reservoir, labels) in [&mut memory.shown, &mut memory.held].into_iter().zip(contents.reservoirs) {
        for held in labels {
            reservoir.restore(&held.label, held.observed, held.full, streams.by_ref().take(held.streams));
        }
    }
    (memory.observed, memory.prequential) = (contents.observed, contents.prequential);
    Ok(true)
}
