//! How is a network made? Labels and captures become a corpus of volleys, the teacher shows it, thresholds are calibrated.
//!
//! Input: [`labels`] and captures. Output: a [`crate::model::Model`]. See [`fit()`] for the steps.

mod calibrate;
mod corpus;
mod fit;
mod folds;
mod held_out;
mod homeostasis;
mod join_calibration;
pub mod labels;
pub mod live;
pub mod one_packet;
mod ports;
pub(crate) mod random;
mod retrain;
mod split_by_direction;
mod teacher;
mod variant;

pub use corpus::{Corpus, CorpusError, GatherReport, LabelledStream};
pub use fit::{Fitted, fit, passes};
pub use folds::{folds, folds_by_stream};
pub use join_calibration::agreed;
pub use retrain::{recalibrate, retrain};
pub use teacher::TeachingSchedule;

use crate::snn::Stdp;

/// What a user may choose about training.
#[derive(Clone, Debug)]
pub struct TrainSettings {
    pub seed: u64,
    pub threads: usize,
    pub rule: Stdp,
    /// Packets of one stream that are shown: a flow shows what it is in its first packets, a host over many.
    pub packets_per_stream: usize,
    /// Power of (mean packets a class / packets of the class) by which a rare class learns more from each of its own packets.
    pub balance: f32,
    /// Whether packets of classes of few streams are also shown with their ports alone; [`fit()`] tries both and keeps what tells
    /// calibration streams best.
    pub ports_alone: bool,
    /// Folds of the cross-fitting that calibration rests on.
    pub folds: usize,
    /// Share of other classes' streams for whose packets a neuron may fire: its threshold is set to it, within bounds.
    pub false_alarm_rate: f64,
    /// How many rightly named streams one falsely named stream outweighs, when the acceptance threshold is chosen.
    pub false_alarm_cost: f64,
    /// Largest loss of accuracy that stopping early may cost on the calibration streams.
    pub stop_loss: f64,
}

/// Packets of a flow that are scored at most before it is given up.
pub const FLOW_PACKETS: usize = 16;
/// Packets of a host that are scored at most.
pub const HOST_PACKETS: usize = 2048;

/// Share of other classes' streams for whose packets a neuron may fire, unless told otherwise.
pub const FALSE_ALARM_RATE: f64 = 0.01;

impl TrainSettings {
    /// The defaults for a kind of stream.
    pub fn new(key: crate::packet::KeyKind, seed: u64) -> Self {
        let host = key == crate::packet::KeyKind::Host;
        Self {
            seed,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            rule: Stdp::default(),
            packets_per_stream: if host { HOST_PACKETS } else { FLOW_PACKETS },
            balance: 0.25,
            ports_alone: false,
            folds: 4,
            false_alarm_rate: FALSE_ALARM_RATE,
            false_alarm_cost: 2.0,
            stop_loss: 0.002,
        }
    }
}
