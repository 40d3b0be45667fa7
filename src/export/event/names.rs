//! Texts of a model that its events repeat: names as JSON, and the signature of each class.

use std::sync::{Arc, Weak};

use crate::export::json;
use crate::model::Model;
use crate::packet::KeyKind;

/// The smallest signature id. Ids are in the range 1,000,000,000 to 1,999,999,999, which no published rule set uses.
const FIRST_SIGNATURE: u64 = 1_000_000_000;
/// Number of signature ids.
const SIGNATURES: u64 = 1_000_000_000;

/// Id of the signature of a class: the same on every sensor, as long as model and class keep their names.
pub(super) fn signature_id(model: &str, class: &str) -> u64 {
    // FNV-1a, 64 bits. A zero byte, which no name contains, separates the names.
    let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = model.bytes().chain([0]).chain(class.bytes()).fold(0xcbf2_9ce4_8422_2325, fold);
    FIRST_SIGNATURE + hash % SIGNATURES
}

/// The signature of a class: what a rule of an intrusion detection system would print.
pub(super) fn signature(model: &str, class: &str) -> String {
    format!("spiked {model}: {class}")
}

/// Category of a model's alerts.
pub(super) fn category(model: &Model) -> &'static str {
    match model.key {
        KeyKind::Flow if model.layout.has_traces() => "Network Behaviour",
        KeyKind::Flow => "Network Traffic Classification",
        KeyKind::Host => "Network Device Classification",
    }
}

/// The names of a model and its classes as JSON strings.
#[derive(Debug)]
pub(super) struct ModelNames {
    /// The model. While it is referenced here, no other model lies at its address.
    model_of: Weak<Model>,
    /// Name of each class.
    pub classes: Vec<Vec<u8>>,
    /// The object `alert` of each class up to the value of its last field, `severity`.
    pub alerts: Vec<Vec<u8>>,
    pub model: Vec<u8>,
}

impl ModelNames {
    fn new(model: &Arc<Model>) -> Self {
        let text = |name: &str| {
            let mut out = Vec::new();
            json::string(&mut out, name);
            out
        };
        let alert = |class: &String| {
            let mut out = br#"{"action":"allowed","gid":1,"signature_id":"#.to_vec();
            json::number(&mut out, signature_id(&model.name, class));
            out.extend_from_slice(br#","rev":1,"signature":"#);
            json::string(&mut out, &signature(&model.name, class));
            out.extend_from_slice(br#","category":"#);
            json::string(&mut out, category(model));
            out.extend_from_slice(br#","severity":"#);
            out
        };
        Self {
            model_of: Arc::downgrade(model),
            classes: model.classes.iter().map(|class| text(class)).collect(),
            alerts: model.classes.iter().map(alert).collect(),
            model: text(&model.name),
        }
    }
}

/// The [`ModelNames`] of all models in use: events of several models alternate.
#[derive(Debug, Default)]
pub(super) struct JsonNames(Vec<ModelNames>);

impl JsonNames {
    /// The names of `model`, made at the first call. Those of models that no longer exist are dropped then.
    pub fn of(&mut self, model: &Arc<Model>) -> &ModelNames {
        let found = self.0.iter().position(|names| names.model_of.as_ptr() == Arc::as_ptr(model));
        let at = found.unwrap_or_else(|| {
            self.0.retain(|names| names.model_of.strong_count() > 0);
            self.0.push(ModelNames::new(model));
            self.0.len() - 1
        });
        &self.0[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_once_for_each_model_in_use() {
        let model = |name: &str| Arc::new(Model { name: name.into(), ..Model::built_in().expect("it is built in") });
        let (a, b, mut names) = (model("a"), model("b"), JsonNames::default());
        for _ in 0..2 {
            assert_eq!((names.of(&a).model.clone(), names.of(&b).model.clone()), (b"\"a\"".to_vec(), b"\"b\"".to_vec()));
        }
        assert_eq!(names.0.len(), 2);
        drop(a);
        names.of(&model("c"));
        assert_eq!(names.0.len(), 2);
    }

    #[test]
    fn signature_ids_are_stable_within_their_range_and_distinct_for_the_built_in_classes() {
        // Rules and dashboards of users refer to these numbers.
        assert_eq!([signature_id("protocols", "ssh"), signature_id("protocols", "dns")], [1_405_000_804, 1_047_532_769]);
        let model = Model::built_in().expect("it is built in");
        let mut ids: Vec<u64> = model.classes.iter().map(|class| signature_id(&model.name, class)).collect();
        assert!(ids.iter().all(|id| (1_000_000_000..2_000_000_000).contains(id)));
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), model.classes.len());
        assert_ne!(signature_id("a", "bc"), signature_id("ab", "c"));
    }
}
