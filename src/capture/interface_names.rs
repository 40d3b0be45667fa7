//! Interfaces that the packets of a source came in by: their numbers, and their names for events.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

use super::InterfaceId;

/// Characters of a name that are kept.
const MAX_NAME: usize = 256;

/// Names of interfaces by their numbers. Capture files share one table, so that an interface has the same number in all files that name it.
#[derive(Debug, Default)]
pub struct InterfaceNames(RwLock<Table>);

#[derive(Debug, Default)]
struct Table {
    names: Vec<Arc<str>>,
    /// By name, and number of the interfaces of the same name that one section of a file has before it.
    numbers: HashMap<(Arc<str>, u32), InterfaceId>,
}

impl InterfaceNames {
    /// A table of live interfaces, in the order of their numbers.
    pub fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let names = names.into_iter().map(Into::into).collect();
        Self(RwLock::new(Table { names, numbers: HashMap::new() }))
    }

    /// The name of an interface.
    pub fn name(&self, id: InterfaceId) -> Option<Arc<str>> {
        self.0.read().names.get(id.index()).cloned()
    }

    /// The number of the interface `name`, the one with `before` others of that name before it; a new number if it has none. `None` if
    /// there are too many interfaces, as files may describe any number.
    pub(super) fn number(&self, name: &str, before: u32) -> Option<InterfaceId> {
        let name: Arc<str> = name.chars().take(MAX_NAME).collect::<String>().into();
        let mut table = self.0.write();
        let key = (name, before);
        if let Some(&id) = table.numbers.get(&key) {
            return Some(id);
        }
        let id = InterfaceId::from_index(table.names.len())?;
        table.names.push(Arc::clone(&key.0));
        table.numbers.insert(key, id);
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_has_one_number_and_interfaces_of_one_name_have_several() {
        let names = InterfaceNames::default();
        let of = |name: &str, before| names.number(name, before).expect("a number").index();
        assert_eq!([of("eth0", 0), of("eth1", 0), of("eth0", 0), of("eth0", 1)], [0, 1, 0, 2]);
        let name = |index| names.name(InterfaceId::from_index(index).expect("a small index"));
        assert_eq!([name(0), name(2), name(3)], [Some("eth0".into()), Some("eth0".into()), None]);
    }

    #[test]
    fn the_table_is_bounded() {
        let names = InterfaceNames::default();
        assert_eq!((0..1000).filter_map(|n| names.number("x", n)).count(), 255);
        let long = "é".repeat(MAX_NAME + 1);
        let names = InterfaceNames::default();
        let id = names.number(&long, 0).expect("a number");
        assert_eq!(names.name(id).expect("a name").chars().count(), MAX_NAME);
    }
}
