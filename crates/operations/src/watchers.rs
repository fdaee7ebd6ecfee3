//! Who watches the live figures. Each operator and each role has a share of the places, so that none takes them all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use antiphon_access::admin::Role;
use antiphon_access::sessions::Session;

use super::OperationError;

const MAX_WATCHERS: usize = 256;
/// How many places all operators of a role have.
const MAX_OF_ROLE: usize = 192;
/// How many places an operator in a role has, in any number of sessions.
const MAX_SHARE: usize = 64;

/// An operator in a role. All who use the role's token are one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Watcher {
    role: Role,
    name: Option<String>,
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

// === impl Watcher ===

impl Watcher {
    pub fn with_token(role: Role) -> Self {
        Self { role, name: None }
    }

    pub fn in_session(session: &Session) -> Self {
        Self { role: session.role, name: session.operator.clone() }
    }
}

// === impl Watchers ===

impl Watchers {
    pub fn take(&self, watcher: Watcher) -> Result<WatcherPlace, OperationError> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.get(&watcher).copied().unwrap_or(0);
        let of_role = taken.iter().filter(|(other, _)| other.role == watcher.role).map(|(_, taken)| taken);
        let shares = [
            (own, MAX_SHARE, "of this operator"),
            (of_role.sum(), MAX_OF_ROLE, "of this role"),
            (taken.values().sum(), MAX_WATCHERS, "of all operators"),
        ];
        if let Some((_, places, of)) = shares.into_iter().find(|(taken, places, _)| taken >= places) {
            return Err(OperationError::TooManyWatchers { places, of });
        }
        taken.insert(watcher.clone(), own + 1);
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

    fn watcher(role: Role, name: &str) -> Watcher {
        Watcher { role, name: Some(name.to_owned()) }
    }

    fn refusal(taken: Result<WatcherPlace, OperationError>) -> String {
        taken.unwrap_err().to_string()
    }

    #[test]
    fn an_operator_leaves_places_for_others() {
        let watchers = Watchers::default();
        let take = |name| watchers.take(watcher(Role::Viewer, name));
        let mut places: Vec<_> = (0..MAX_SHARE).map(|_| take("a").unwrap()).collect();
        let told = "all 64 places of this operator in the live view are taken: close a page or client that uses one, or wait \
                    until one is free";
        assert_eq!(refusal(take("a")), told);
        let other = take("b").unwrap();
        places.pop();
        places.push(take("a").unwrap());
        drop((places, other));
        assert!(watchers.0.lock().unwrap().is_empty());
    }

    #[test]
    fn the_operators_of_a_role_leave_places_for_the_other_role() {
        let watchers = Watchers::default();
        let take = |role, n: usize| watchers.take(watcher(role, &n.to_string()));
        let viewers: Vec<_> = (0..MAX_OF_ROLE).map(|n| take(Role::Viewer, n).unwrap()).collect();
        let told = refusal(take(Role::Viewer, MAX_OF_ROLE));
        assert!(told.starts_with("all 192 places of this role in the live view"), "{told}");
        let left = MAX_WATCHERS - MAX_OF_ROLE;
        let admins: Vec<_> = (0..left).map(|n| take(Role::Admin, n).unwrap()).collect();
        let told = refusal(take(Role::Admin, left));
        assert!(told.starts_with("all 256 places of all operators in the live view"), "{told}");
        drop((viewers, admins));
    }
}
