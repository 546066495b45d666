//! The states in use, each under a number of its own, and how many ids have each.

use std::collections::HashMap;

/// Stands for a state in the nodes of one index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StateNumber(u32);

impl StateNumber {
    /// Its bit in a signature.
    pub(super) fn bit(self) -> u64 {
        1 << (self.0 % u64::BITS)
    }
}

/// Numbers and counts of states. A number is given again once no id has its state, so that numbers stay small and
/// signatures sharp.
#[derive(Debug, Default)]
pub(super) struct States {
    by_name: HashMap<Box<str>, StateNumber>,
    by_number: Vec<(Box<str>, u64)>,
    free: Vec<StateNumber>,
    last: Option<StateNumber>,
}

impl States {
    /// Counts one id more that has a state.
    pub(super) fn enter(&mut self, name: &str) -> StateNumber {
        // Most writes keep the state of the write before them.
        if let Some(number) = self.last
            && let Some((last, count)) = self.by_number.get_mut(number.0 as usize)
            && last.as_ref() == name
            && *count > 0
        {
            *count += 1;
            return number;
        }
        let number = match self.by_name.get(name) {
            Some(number) => *number,
            None => self.add(name),
        };
        if let Some((_, count)) = self.by_number.get_mut(number.0 as usize) {
            *count += 1;
        }
        self.last = Some(number);
        number
    }

    fn add(&mut self, name: &str) -> StateNumber {
        let number = match self.free.pop() {
            Some(number) => {
                if let Some(slot) = self.by_number.get_mut(number.0 as usize) {
                    *slot = (name.into(), 0);
                }
                number
            }
            None => {
                self.by_number.push((name.into(), 0));
                StateNumber(self.by_number.len() as u32 - 1)
            }
        };
        self.by_name.insert(name.into(), number);
        number
    }

    /// Counts one id less.
    pub(super) fn leave(&mut self, number: StateNumber) {
        let Some((name, count)) = self.by_number.get_mut(number.0 as usize) else { return };
        *count = count.saturating_sub(1);
        if *count == 0 {
            self.by_name.remove(name);
            self.free.push(number);
        }
    }

    pub(super) fn number(&self, name: &str) -> Option<StateNumber> {
        self.by_name.get(name).copied()
    }

    pub(super) fn name(&self, number: StateNumber) -> Option<&str> {
        self.by_number.get(number.0 as usize).map(|(name, _)| name.as_ref())
    }

    pub(super) fn count(&self, name: &str) -> u64 {
        let slot = self.number(name).and_then(|number| self.by_number.get(number.0 as usize));
        slot.map_or(0, |(_, count)| *count)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.by_name.keys().map(|name| (name.as_ref(), self.count(name)))
    }
}
