//! Where the events are whose ids clients settle.
//!
//! An id stands for one event of a topic. A group of a pattern has many topics, whose publishers choose their ids without
//! knowing of each other, so one id may be several events here.

use std::{collections::HashMap, sync::Arc};

/// Index of a track, and the seq of an event.
pub(crate) type Place = (usize, u64);

/// Events by their id.
#[derive(Debug, Default)]
pub(crate) struct Ids {
    /// The first of each id.
    first: HashMap<Arc<str>, Place>,
    /// Those that came while another topic had the id; nearly always empty.
    more: HashMap<Arc<str>, Vec<Place>>,
}

impl Ids {
    pub(crate) fn insert(&mut self, id: Arc<str>, place: Place) {
        match self.first.get(&id) {
            Some((track, _)) if *track != place.0 => {
                let more = self.more.entry(id).or_default();
                more.retain(|(track, _)| *track != place.0);
                more.push(place);
            }
            _ => drop(self.first.insert(id, place)),
        }
    }

    /// Forgets the event at `place`, if it is known by this id.
    pub(crate) fn remove(&mut self, id: &str, place: Place) {
        if self.first.get(id) == Some(&place) {
            // The next one steps into its place.
            match self.more.get_mut(id).and_then(Vec::pop) {
                Some(next) => drop(self.first.insert(id.into(), next)),
                None => drop(self.first.remove(id)),
            }
        } else if let Some(more) = self.more.get_mut(id) {
            more.retain(|own| *own != place);
        }
        if self.more.get(id).is_some_and(Vec::is_empty) {
            self.more.remove(id);
        }
    }

    /// Every event of that id, the first first.
    pub(crate) fn of(&self, id: &str) -> impl Iterator<Item = Place> {
        let more = if self.more.is_empty() { None } else { self.more.get(id) };
        self.first.get(id).into_iter().chain(more.into_iter().flatten()).copied()
    }
}

#[cfg(test)]
impl Ids {
    pub(crate) fn len(&self) -> usize {
        self.first.len() + self.more.values().map(Vec::len).sum::<usize>()
    }
}
