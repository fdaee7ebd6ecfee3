//! Who watches the live figures. Each session and each token has a share of the places, so that none takes them all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use antiphon_access::admin::Role;
use antiphon_access::sessions::SessionId;

use super::OperationError;

const MAX_WATCHERS: usize = 256;
/// How many places one session or token has.
const MAX_SHARE: usize = 32;

/// What a watcher has proven to be an operator with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Watcher {
    Token(Role),
    Session(SessionId),
}

/// How many places are taken. Clones share their values.
#[derive(Debug, Clone, Default)]
pub(super) struct Watchers(Arc<Mutex<HashMap<Watcher, usize>>>);

/// The place of a watcher, which is free again once this is dropped.
#[derive(Debug)]
pub struct WatcherPlace {
    watchers: Watchers,
    watcher: Watcher,
}

// === impl Watchers ===

impl Watchers {
    pub fn take(&self, watcher: Watcher) -> Result<WatcherPlace, OperationError> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, own) = (taken.values().sum::<usize>(), taken.get(&watcher).copied().unwrap_or(0));
        if all >= MAX_WATCHERS || own >= MAX_SHARE {
            return Err(OperationError::TooManyWatchers);
        }
        taken.insert(watcher, own + 1);
        Ok(WatcherPlace { watchers: self.clone(), watcher })
    }
}

impl Drop for WatcherPlace {
    fn drop(&mut self) {
        let mut taken = self.watchers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = taken.get_mut(&self.watcher) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.watcher);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_token_leaves_places_for_others() {
        let watchers = Watchers::default();
        let take = |role| watchers.take(Watcher::Token(role));
        let mut places: Vec<_> = (0..MAX_SHARE).map(|_| take(Role::Admin).unwrap()).collect();
        assert!(matches!(take(Role::Admin), Err(OperationError::TooManyWatchers)));
        let other = take(Role::Viewer).unwrap();
        places.pop();
        places.push(take(Role::Admin).unwrap());
        drop((places, other));
        assert!(watchers.0.lock().unwrap().is_empty());
    }
}
