//! Training of models: captures and labels become a corpus of volleys, networks are trained on it, thresholds are calibrated.
//!
//! Input: [`labels`] and captures. Output: a [`crate::model::Model`]. [`fit()`] runs the steps.

mod add_class;
mod calibrate;
mod corpus;
mod episodes;
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
mod transports;
mod variant;

pub use add_class::add_class;
pub use corpus::{Corpus, CorpusError, FlowStart, GatherReport, LabelledFile, LabelledStream};
pub use episodes::rules_of_flows;
pub use fit::{FitResult, fit, passes};
pub use folds::{folds, folds_by_stream};
pub use join_calibration::calibrate_joined;
pub use retrain::{recalibrate, retrain};
pub use teacher::TeachingSchedule;
pub use variant::PortVariants;

use crate::snn::Stdp;

/// Settings of training.
#[derive(Clone, Debug)]
pub struct TrainSettings {
    /// Seed of all random choices.
    pub seed: u64,
    /// Number of threads.
    pub threads: usize,
    /// Constants of the learning rule.
    pub rule: Stdp,
    /// Maximum number of packets used of a stream: few of a flow, which shows its class at its beginning, many of a host.
    pub packets_per_stream: usize,
    /// Exponent of (mean packets per class / packets of the class), the factor of the learning rate of a class for its own packets: rare
    /// classes learn more from each.
    pub balance: f32,
    /// Whether packets of classes with few streams are also shown with their ports alone; [`fit()`] tries both and keeps the setting
    /// that classifies calibration streams better.
    pub ports_alone: bool,
    /// Number of folds of the cross-fitting that calibration uses.
    pub folds: usize,
    /// Target share of other classes' packets for which a neuron fires, 0 to 1; its threshold is set to reach it, within bounds.
    pub false_alarm_rate: f64,
    /// Largest loss of accuracy on the calibration streams that stopping early may cost, 0 to 1.
    pub stop_loss: f64,
}

/// Maximum number of packets scored of a flow.
pub const FLOW_PACKETS: usize = 16;
/// Maximum number of packets scored of a host.
pub const HOST_PACKETS: usize = 2048;

/// Default of [`TrainSettings::false_alarm_rate`].
pub const FALSE_ALARM_RATE: f64 = 0.01;

impl TrainSettings {
    /// The default settings for a kind of stream.
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
            stop_loss: 0.002,
        }
    }
}
