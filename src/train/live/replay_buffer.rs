//! How does what was heard rest on disk, so that a restart does not begin anew? One safetensors file a model, `MODEL.heard.safetensors`.
//!
//! Tensors: `slots` (U16, volleys x slots of the layout), `volleys` (U32, of each stream). Metadata: `heard`, JSON with the layout, how
//! many streams of each label were heard, what each reservoir holds, in the order of the streams, and the prequential accuracies.

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

/// What a reservoir holds of one label.
#[derive(Serialize, Deserialize)]
struct StoredStream {
    label: String,
    heard: u64,
    full: bool,
    streams: usize,
}

#[derive(Serialize, Deserialize)]
struct BufferContents {
    key: KeyKind,
    layout: Layout,
    heard: BTreeMap<String, u64>,
    prequential: BTreeMap<String, Prequential>,
    /// To learn from, and held back.
    reservoirs: [Vec<StoredStream>; 2],
}

fn file(folder: &Path, model: &str) -> PathBuf {
    folder.join(format!("{model}.heard.safetensors"))
}

fn broken(path: &Path, what: impl Into<String>) -> LearnedError {
    let source = std::io::Error::new(std::io::ErrorKind::InvalidData, what.into());
    LearnedError::Beside { path: path.into(), source }
}

/// Keeps what is remembered. Header octets of streams are for the program's own user.
///
/// # Errors
/// Where the folder can't be written; the file is then whole, the old or the new one.
pub(super) fn save(memory: &ReplayBuffer, folder: &Path, model: &str) -> Result<(), LearnedError> {
    let path = file(folder, model);
    let both = [&memory.shown, &memory.held];
    let held = |reservoir: &Reservoir| {
        let of = |(label, heard, full, streams): (&str, u64, bool, &[StreamSlots])| StoredStream {
            label: label.into(),
            heard,
            full,
            streams: streams.len(),
        };
        reservoir.labels().map(of).collect()
    };
    let contents = BufferContents {
        key: memory.key,
        layout: memory.layout.clone(),
        heard: memory.heard.clone(),
        prequential: memory.prequential.clone(),
        reservoirs: both.map(held),
    };
    let width = memory.layout.slots().len();
    let streams: Vec<&StreamSlots> =
        both.into_iter().flat_map(Reservoir::labels).flat_map(|(_, _, _, streams)| streams).collect();
    let volleys: Vec<u8> = streams.iter().flat_map(|s| ((s.len() / width) as u32).to_le_bytes()).collect();
    let slots: Vec<u8> = streams.iter().flat_map(|s| s.iter().flat_map(|v| v.to_le_bytes())).collect();
    let octets = || -> Result<Vec<u8>, Box<dyn std::error::Error>> {
        let metadata = HashMap::from([("heard".to_string(), serde_json::to_string(&contents)?)]);
        let tensors = [
            ("slots", TensorView::new(Dtype::U16, vec![slots.len() / 2 / width, width], &slots)?),
            ("volleys", TensorView::new(Dtype::U32, vec![streams.len()], &volleys)?),
        ];
        Ok(safetensors::serialize(tensors, Some(metadata))?)
    };
    let octets = octets().map_err(|error| broken(&path, error.to_string()))?;
    replace(&path, 0o600, &octets).map_err(|source| LearnedError::Beside { path, source })
}

/// Puts what [`save`] kept into a memory that has heard nothing yet; whether there was anything of the same key and layout.
///
/// # Errors
/// A file that can't be read, or is damaged; the memory is then empty.
pub(super) fn load(memory: &mut ReplayBuffer, folder: &Path, model: &str) -> Result<bool, LearnedError> {
    let path = file(folder, model);
    let octets = match std::fs::read(&path) {
        Ok(octets) => octets,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(LearnedError::Beside { path, source }),
    };
    let read = || -> Result<(BufferContents, Vec<StreamSlots>), Box<dyn std::error::Error>> {
        let (_, header) = SafeTensors::read_metadata(&octets)?;
        let text = header.metadata().as_ref().and_then(|m| m.get("heard")).ok_or("it does not say what was heard")?;
        let contents: BufferContents = serde_json::from_str(text)?;
        let tensors = SafeTensors::deserialize(&octets)?;
        let of = |name: &str, dtype| tensors.tensor(name).ok().filter(|t| t.dtype() == dtype).ok_or("a tensor is missing");
        let (slots, volleys) = (of("slots", Dtype::U16)?, of("volleys", Dtype::U32)?);
        let width = contents.layout.slots().len();
        let mut values = slots.data().chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
        let mut streams = Vec::new();
        for b in volleys.data().chunks_exact(4) {
            let volleys = u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize;
            let stream: StreamSlots = values.by_ref().take(volleys.saturating_mul(width)).collect();
            if stream.len() != volleys.saturating_mul(width) || stream.iter().any(|&v| v > 255 && v != SILENT) {
                return Err("its streams are not what they are said to be".into());
            }
            streams.push(stream);
        }
        let told = contents.reservoirs.iter().flatten().map(|held| held.streams).fold(0, usize::saturating_add);
        if told != streams.len() {
            return Err("it has more or fewer streams than labels for them".into());
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
            reservoir.restore(&held.label, held.heard, held.full, streams.by_ref().take(held.streams));
        }
    }
    (memory.heard, memory.prequential) = (contents.heard, contents.prequential);
    Ok(true)
}
