//! Things under ascending numbers, where the oldest are asked for first.

use std::collections::VecDeque;

/// A queue in ascending order of its numbers: adding is at the end, finding nearly always at the front.
pub(crate) struct Numbered<T>(VecDeque<(u64, T)>);

impl<T> Numbered<T> {
    pub(crate) const fn new() -> Self {
        Self(VecDeque::new())
    }

    /// Adds under a number higher than all before.
    pub(crate) fn push(&mut self, number: u64, value: T) {
        self.0.push_back((number, value));
    }

    pub(crate) fn take(&mut self, number: u64) -> Option<T> {
        let at = self.find(number)?;
        self.0.remove(at).map(|(_, value)| value)
    }

    pub(crate) fn get(&self, number: u64) -> Option<&T> {
        self.0.get(self.find(number)?).map(|(_, value)| value)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|(_, value)| value)
    }

    /// Keeps those that pass.
    pub(crate) fn retain(&mut self, mut passes: impl FnMut(&T) -> bool) {
        self.0.retain(|(_, value)| passes(value));
    }

    fn find(&self, number: u64) -> Option<usize> {
        match self.0.front() {
            Some((first, _)) if *first == number => Some(0),
            _ => self.0.binary_search_by_key(&number, |(number, _)| *number).ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Numbered;

    #[test]
    fn each_is_found_by_its_number_and_taken_once() {
        let mut numbered = Numbered::new();
        for number in [1, 4, 9] {
            numbered.push(number, number);
        }
        assert_eq!(numbered.get(4), Some(&4));
        assert_eq!((numbered.take(4), numbered.take(4), numbered.get(3)), (Some(4), None, None));
        numbered.retain(|value| *value == 9);
        assert_eq!(numbered.iter().collect::<Vec<_>>(), [&9]);
    }
}
