//! Validation of the settings of live learning.

use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;

use super::super::raw;
use super::super::{LearningConfig, TeacherConfig};
use super::{Check, or};

impl Check {
    pub(super) fn learning(&mut self, typed: raw::RawLearning) -> LearningConfig {
        let default = LearningConfig::default();
        let every = default.every.as_secs_f64();
        let every = self.number("learning.every_secs", &typed.every_secs, every, 0.05..=86_400.0, "seconds");
        LearningConfig {
            folder: self.text("learning.folder", typed.folder).map(PathBuf::from),
            every: Duration::from_secs_f64(every),
            volleys: self.number("learning.volleys", &typed.volleys, default.volleys, 1024..=1 << 20, "volleys"),
            min_accuracy: self.number(
                "learning.min_accuracy",
                &typed.min_accuracy,
                default.min_accuracy,
                0.0..=1.0,
                "of the streams",
            ),
        }
    }

    pub(super) fn teacher(&mut self, typed: Spanned<raw::RawTeacher>) -> Option<TeacherConfig> {
        let at = typed.span().start;
        let typed = typed.into_inner();
        if typed.class.is_none() {
            self.missing(at, "class", "the teacher has no class; set class = \"...\", the class to learn");
        }
        if typed.filter.is_none() {
            self.missing(
                at,
                "filter",
                "the teacher has no filter; set filter = \"...\", a BPF filter that matches the streams of the class",
            );
        }
        let teacher = TeacherConfig {
            model: self.text("model", typed.model),
            rate: self.number("rate", &typed.rate, 100.0, 0.01..=1e6, "packets per second"),
            learning_rate: self.number("learning_rate", &typed.learning_rate, 0.5, 1e-6..=1.0, "(learning rate)"),
            freeze: or(&typed.freeze, false),
            mask: typed
                .mask
                .map_or_else(|| vec!["ports".into()], |names| names.into_inner().into_iter().map(Spanned::into_inner).collect()),
            class: self.text("class", typed.class).unwrap_or_default(),
            filter: self.filter(typed.filter).unwrap_or_default(),
        };
        Some(teacher)
    }
}
