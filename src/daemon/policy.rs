//! What is done about a stream of a class? The first policy that fits says: report, alert or ignore.
//!
//! Input: a verdict. Output: a [`Judgement`]. The engine gives verdicts, not frames: `include_filter` and `exclude_filter` are BPF programs run on a
//! frame made of the stream's key, as its first packet would look.

use crate::capture::{CaptureError, Filter, LinkType};
use crate::config::{Action, PolicyConfig, Severity, TeacherConfig};
use crate::engine::{Models, Verdict};
use crate::packet::{Direction, StreamKey};

const ETHERNET: LinkType = LinkType(1);

/// What is done about a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    Report,
    Alert(Severity),
    Ignore,
}

/// A filter over streams.
pub(super) struct StreamFilter {
    filter: Filter,
    /// The expression speaks of VLANs: only then does it see their tags, since BPF's `port` and `net` look past none.
    tagged: bool,
}

impl StreamFilter {
    pub fn new(expression: &str) -> Result<Self, CaptureError> {
        let tagged = expression.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == "vlan");
        Ok(Self { filter: Filter::new(expression)?, tagged })
    }

    pub fn admits(&mut self, key: &StreamKey, first: Direction, frame: &mut Vec<u8>) -> bool {
        key.specimen(first, self.tagged, frame);
        self.filter.admits(ETHERNET, frame)
    }
}

struct CompiledPolicy {
    policy: PolicyConfig,
    include: Option<StreamFilter>,
    exclude: Option<StreamFilter>,
}

/// All policies, ready to judge.
#[derive(Default)]
pub struct Policies {
    policies: Vec<CompiledPolicy>,
    frame: Vec<u8>,
}

impl Policies {
    /// Compiles policies.
    ///
    /// # Errors
    /// Where an expression is mistaken.
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

    /// What is done about a stream. Streams without a class are reported.
    pub fn judge(&mut self, verdict: &Verdict) -> Judgement {
        let Some(class) = verdict.class else { return Judgement::Report };
        let name = verdict.named.classes[class.index()].as_str();
        let frame = &mut self.frame;
        let fits = |p: &mut CompiledPolicy| {
            (p.policy.class == "*" || p.policy.class == name)
                && p.policy.model.as_ref().is_none_or(|m| *m == verdict.named.name)
                && p.include.as_mut().is_none_or(|f| f.admits(&verdict.key, verdict.first_direction, frame))
                && !p.exclude.as_mut().is_some_and(|f| f.admits(&verdict.key, verdict.first_direction, frame))
        };
        let mut fits = fits;
        match self.policies.iter_mut().find_map(|p| fits(p).then_some((p.policy.action, p.policy.severity))) {
            None | Some((Action::Report, _)) => Judgement::Report,
            Some((Action::Alert, severity)) => Judgement::Alert(severity),
            Some((Action::Ignore, _)) => Judgement::Ignore,
        }
    }
}

/// Policies for models or classes that are not there and not taught either, each as a sentence.
pub fn misdirected(policies: &[PolicyConfig], teachers: &[TeacherConfig], models: &Models) -> Vec<String> {
    let wrong = |policy: &PolicyConfig| {
        let (class, model) = (&policy.class, &policy.model);
        if let Some(model) = model
            && !models.iter().any(|m| m.name == *model)
        {
            return Some(format!("a policy for class '{class}' names model '{model}', which is not among `models`"));
        }
        let mut meant = models.iter().filter(|m| model.as_ref().is_none_or(|name| m.name == *name));
        let taught = teachers.iter().any(|t| t.class == *class);
        let there = class == "*" || taught || meant.any(|m| m.classes.contains(class));
        (!there)
            .then(|| format!("a policy names class '{class}', which no model has; `spiked model show` lists a model's classes"))
    };
    policies.iter().filter_map(wrong).collect()
}
