//! The objects that a manifest knows, by name.

use hashbrown::HashTable;

use super::record::Row;
use super::state::ObjectState;
use crate::id::ObjectName;

/// Every object, found by the name in its row: kept beside it as a map's key, that would be a third of it once more.
#[derive(Debug, Clone, Default)]
pub struct Objects(HashTable<Box<ObjectState>>);

impl Objects {
    pub fn get(&self, name: &ObjectName) -> Option<&ObjectState> {
        self.0.find(hash(name), |state| state.row.object == *name).map(Box::as_ref)
    }

    pub fn get_mut(&mut self, name: &ObjectName) -> Option<&mut ObjectState> {
        self.0.find_mut(hash(name), |state| state.row.object == *name).map(Box::as_mut)
    }

    /// The object that `row` is about, known from now on.
    pub fn get_or_learn(&mut self, row: &Row) -> &mut ObjectState {
        let entry = self.0.entry(
            hash(&row.object),
            |state| state.row.object == row.object,
            |state| hash(&state.row.object),
        );
        entry.or_insert_with(|| ObjectState::new(row.clone()).into()).into_mut()
    }

    pub fn remove(&mut self, name: &ObjectName) -> Option<ObjectState> {
        let found = self.0.find_entry(hash(name), |state| state.row.object == *name).ok()?;
        Some(*found.remove().0)
    }

    /// In no particular order, but always the same after the same changes.
    pub fn iter(&self) -> impl Iterator<Item = &ObjectState> {
        self.0.iter().map(Box::as_ref)
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut ObjectState> {
        self.0.iter_mut().map(Box::as_mut)
    }
}

/// A name is a hash already. The end of it, because names come in the order of their beginnings, and a table that is filled
/// in the order of its hashes is a slow one.
fn hash(name: &ObjectName) -> u64 {
    name.as_bytes().last_chunk().map_or(0, |end| u64::from_le_bytes(*end))
}
