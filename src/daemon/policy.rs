//! Policies: the action for a classified stream or an episode (report, alert or ignore). The first policy that matches applies.
//!
//! Input: a verdict, or an episode that begins. Output: a [`Judgement`]. The observer gets verdicts, not frames: `include_filter` and `exclude_filter`
//! are BPF programs that run on a synthetic frame from the source of the stream to its destination; of an episode, of the stream at which it began.

use crate::capture::{CaptureError, Filter, LinkType};
use crate::config::{Action, PolicyConfig, Severity, TeacherConfig};
use crate::engine::{EpisodeOutput, Models, Verdict};
use crate::model::Model;
use crate::packet::{Direction, StreamKey};
use crate::snn::ClassId;
use crate::stream::Basis;

/// Action for a stream or an episode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Send events.
    Report,
    /// Send events and an alert.
    Alert(Severity),
    /// Send no events.
    Ignore,
}

/// BPF filter on streams.
pub(super) struct StreamFilter {
    filter: Filter,
    /// The expression contains `vlan`: only then the frame has VLAN tags, since `port` and `net` do not match tagged frames.
    tagged: bool,
}

impl StreamFilter {
    pub fn new(expression: &str) -> Result<Self, CaptureError> {
        let tagged = expression.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == "vlan");
        Ok(Self { filter: Filter::new(expression)?, tagged })
    }

    pub fn admits(&mut self, key: &StreamKey, first: Direction, frame: &mut Vec<u8>) -> bool {
        key.synthetic_frame(first, self.tagged, frame);
        self.filter.admits(LinkType::ETHERNET, frame)
    }
}

struct CompiledPolicy {
    policy: PolicyConfig,
    include: Option<StreamFilter>,
    exclude: Option<StreamFilter>,
}

/// Compiled policies.
#[derive(Default)]
pub struct Policies {
    policies: Vec<CompiledPolicy>,
    frame: Vec<u8>,
}

impl Policies {
    /// Compiles policies.
    ///
    /// # Errors
    /// A filter is not a valid BPF filter.
    pub fn new(policies: &[PolicyConfig]) -> Result<Self, CaptureError> {
        let compile = |policy: &PolicyConfig| {
            let filter = |expression: &Option<String>| expression.as_deref().map(StreamFilter::new).transpose();
            Ok(CompiledPolicy {
                policy: policy.clone(),
                include: filter(&policy.include_filter)?,
                exclude: filter(&policy.exclude_filter)?,
            })
        };
        Ok(Self { policies: policies.iter().map(compile).collect::<Result<_, CaptureError>>()?, frame: Vec::new() })
    }

    /// Returns the action for a stream. Streams without a class are reported.
    pub fn judge(&mut self, verdict: &Verdict) -> Judgement {
        let Some(class) = verdict.class else { return Judgement::Report };
        self.judge_class(&verdict.model, class, verdict.basis(), (&verdict.key, verdict.first_direction))
    }

    /// Returns the action for an episode that begins. Its other events are reported.
    pub fn judge_episode(&mut self, output: &EpisodeOutput) -> Judgement {
        let Some((key, direction)) = &output.stream else { return Judgement::Report };
        self.judge_class(&output.model, output.episode.class, Some(Basis::Episode), (key, *direction))
    }

    fn judge_class(
        &mut self,
        model: &Model,
        class: ClassId,
        basis: Option<Basis>,
        (key, direction): (&StreamKey, Direction),
    ) -> Judgement {
        let name = model.classes[class.index()].as_str();
        let frame = &mut self.frame;
        let mut matches = |p: &mut CompiledPolicy| {
            (p.policy.class == "*" || p.policy.class == name)
                && p.policy.model.as_ref().is_none_or(|m| *m == model.name)
                && has_basis(&p.policy, basis)
                && p.include.as_mut().is_none_or(|f| f.admits(key, direction, frame))
                && !p.exclude.as_mut().is_some_and(|f| f.admits(key, direction, frame))
        };
        match self.policies.iter_mut().find_map(|p| matches(p).then_some((p.policy.action, p.policy.severity))) {
            None | Some((Action::Report, _)) => Judgement::Report,
            Some((Action::Alert, severity)) => Judgement::Alert(severity),
            Some((Action::Ignore, _)) => Judgement::Ignore,
        }
    }
}

/// Whether the classification has a basis that the policy accepts; a policy that names none accepts any.
fn has_basis(policy: &PolicyConfig, basis: Option<Basis>) -> bool {
    policy.basis.as_ref().is_none_or(|accepted| basis.is_some_and(|basis| accepted.contains(&basis)))
}

/// Key and message of policies whose model or class does not exist, and of those whose basis no model can give. The class may also be one
/// that a teacher learns.
pub fn unknown_targets(policies: &[PolicyConfig], teachers: &[TeacherConfig], models: &Models) -> Vec<(String, String)> {
    let wrong = |(index, policy): (usize, &PolicyConfig)| {
        let mistake = |key, what| Some((format!("policies.{index}.{key}"), what));
        let (class, model) = (&policy.class, &policy.model);
        if let Some(model) = model
            && !models.iter().any(|m| m.name == *model)
        {
            let what = format!(
                "the policy for class '{class}' names model '{model}', which is not among `models`; add it or correct the name"
            );
            return mistake("model", what);
        }
        let targets: Vec<_> = models.iter().filter(|m| model.as_ref().is_none_or(|name| m.name == *name)).collect();
        let learned = teachers.iter().any(|t| t.class == *class);
        let known = class == "*" || learned || targets.iter().any(|m| m.classes.contains(class));
        if !known {
            let what =
                format!("the policy names class '{class}', which no model has; `spiked model show` lists a model's classes");
            return mistake("class", what);
        }
        let is_class = |name: &String| class == "*" || learned || name == class;
        let gives = |model: &Model, basis: &Basis| match basis {
            Basis::Episode => model.episodes.iter().any(|rule| is_class(&model.classes[rule.class.index()])),
            Basis::Content | Basis::Headers | Basis::Ports => model.decision.content_first && model.classes.iter().any(is_class),
        };
        let cannot = |bases: &Vec<Basis>| !targets.iter().any(|model| bases.iter().any(|basis| gives(model, basis)));
        let what = || format!("the policy for class '{class}' has a basis that no model gives for the class; remove `basis`");
        policy.basis.as_ref().filter(|bases| cannot(bases)).and_then(|_| mistake("basis", what()))
    };
    policies.iter().enumerate().filter_map(wrong).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_policy_needs_a_model_that_gives_its_basis() {
        let models: Models = ["protocols", "behaviours"]
            .map(|name| Arc::new(Model::open(std::path::Path::new(name)).expect("it is built in")))
            .into();
        let rejected = |class: &str, basis: &[Basis]| {
            let policy = PolicyConfig {
                class: class.into(),
                model: None,
                action: Action::Report,
                severity: Severity::default(),
                include_filter: None,
                exclude_filter: None,
                basis: Some(basis.to_vec()),
            };
            !unknown_targets(&[policy], &[], &models).is_empty()
        };
        assert!(!rejected("ssh", &[Basis::Content]) && rejected("ssh", &[Basis::Episode]));
        assert!(!rejected("scan.port", &[Basis::Episode]) && rejected("scan.port", &[Basis::Content, Basis::Ports]));
        assert!(!rejected("scan.port", &[Basis::Content, Basis::Episode]) && !rejected("*", &[Basis::Episode]));
        assert!(rejected("normal", &[Basis::Episode]), "a class without episodes");
    }
}
