//! Which of the accounts that are ready gets a turn. No I/O, no time, no locks.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::settings::Strategy;

/// An account that offers the model, is ready, and has room.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    pub name: &'a str,
    pub boundary: &'a str,
    pub priority: u32,
    pub weight: u32,
    pub in_flight: u32,
    /// It may be unusable: other accounts are preferred, unless this one served the chain.
    pub is_doubted: bool,
    /// How many turns it has had so far, relative to its weight.
    pub share: f64,
}

/// What a turn prefers. Any candidate can serve it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Preference<'a> {
    /// The account that served the chain, and its boundary.
    pub origin: Option<Origin<'a>>,
    /// Turns with the same key go to the same account.
    pub key: Option<&'a str>,
}

#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    pub account: &'a str,
    pub boundary: &'a str,
}

/// The index of the chosen candidate; `candidates` are in the order of the configuration.
///
/// The account that served the chain goes first, then accounts that can read the chain. Among these the highest priority
/// wins, then the affinity key or the strategy decides.
pub fn select(candidates: &[Candidate<'_>], preference: Preference<'_>, strategy: Strategy) -> Option<usize> {
    if candidates.len() < 2 {
        return candidates.first().map(|_| 0);
    }
    let mut indices: Vec<usize> = (0..candidates.len()).collect();
    if let Some(origin) = preference.origin {
        if let Some(own) = candidates.iter().position(|candidate| candidate.name == origin.account) {
            return Some(own);
        }
        let can_read = |index: &usize| candidates[*index].boundary == origin.boundary;
        if indices.iter().any(can_read) {
            indices.retain(can_read);
        }
    }
    if indices.iter().any(|index| !candidates[*index].is_doubted) {
        indices.retain(|index| !candidates[*index].is_doubted);
    }
    let highest = indices.iter().map(|index| candidates[*index].priority).max()?;
    indices.retain(|index| candidates[*index].priority == highest);
    let candidate = |index: &usize| &candidates[*index];
    let least = |cost: &dyn Fn(&Candidate<'_>) -> (f64, f64)| {
        let compare = |a: &usize, b: &usize| {
            let ((a, a_next), (b, b_next)) = (cost(candidate(a)), cost(candidate(b)));
            a.total_cmp(&b).then(a_next.total_cmp(&b_next))
        };
        indices.iter().copied().min_by(compare)
    };
    match (preference.key, strategy) {
        // This strategy has one account for all keys.
        (_, Strategy::FillFirst) => indices.first().copied(),
        (Some(key), _) => least(&|candidate| (-rendezvous_score(key, candidate), 0.0)),
        (None, Strategy::LeastLoaded) => least(&|candidate| {
            (f64::from(candidate.in_flight) / f64::from(candidate.weight), candidate.share)
        }),
        (None, Strategy::RoundRobin) => least(&|candidate| (candidate.share, 0.0)),
    }
}

/// Rendezvous hashing: the account with the highest score stays the same whichever other accounts are left, and accounts get
/// keys in proportion to their weights.
fn rendezvous_score(key: &str, candidate: &Candidate<'_>) -> f64 {
    let mut hasher = DefaultHasher::new();
    (key, candidate.name).hash(&mut hasher);
    // Uniform in (0, 1): 53 bits are what an f64 holds.
    let uniform = ((hasher.finish() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    f64::from(candidate.weight) / -uniform.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Candidate<'_> = Candidate {
        name: "a",
        boundary: "x",
        priority: 0,
        weight: 1,
        in_flight: 0,
        is_doubted: false,
        share: 0.0,
    };
    const B: Candidate<'_> = Candidate { name: "b", boundary: "y", ..A };
    const C: Candidate<'_> = Candidate { name: "c", boundary: "y", ..A };

    fn chosen<'a>(candidates: &[Candidate<'a>], preference: Preference<'_>, strategy: Strategy) -> &'a str {
        candidates[select(candidates, preference, strategy).unwrap()].name
    }

    #[test]
    fn without_candidates_there_is_no_choice() {
        assert_eq!(select(&[], Preference::default(), Strategy::LeastLoaded), None);
    }

    #[test]
    fn a_chain_prefers_its_account_and_then_its_boundary() {
        let prefers_b = Preference { origin: Some(Origin { account: "b", boundary: "y" }), key: None };
        let busy = |candidate| Candidate { in_flight: 9, priority: 0, ..candidate };
        let first = Candidate { priority: 5, ..A };
        for strategy in [Strategy::LeastLoaded, Strategy::RoundRobin, Strategy::FillFirst] {
            assert_eq!(chosen(&[first, busy(B), C], prefers_b, strategy), "b");
            assert_eq!(chosen(&[first, busy(C)], prefers_b, strategy), "c");
            assert_eq!(chosen(&[first], prefers_b, strategy), "a");
        }
    }

    #[test]
    fn the_highest_priority_wins_and_then_the_least_load_for_its_weight() {
        let none = Preference::default();
        let (busy, light) = (Candidate { in_flight: 3, weight: 4, ..A }, Candidate { in_flight: 1, ..B });
        assert_eq!(chosen(&[busy, light], none, Strategy::LeastLoaded), "a");
        let idle = Candidate { priority: 0, ..C };
        let first = Candidate { priority: 1, in_flight: 100, ..A };
        assert_eq!(chosen(&[idle, first], none, Strategy::LeastLoaded), "a");
        let served = Candidate { share: 2.0, ..A };
        assert_eq!(
            chosen(&[served, B], none, Strategy::LeastLoaded),
            "b",
            "equal load: the one that has had fewer turns"
        );
    }

    #[test]
    fn round_robin_goes_by_shares_and_fill_first_by_the_order() {
        let (loaded, served) = (Candidate { in_flight: 9, ..A }, Candidate { share: 1.0, ..B });
        assert_eq!(chosen(&[served, loaded], Preference::default(), Strategy::RoundRobin), "a");
        assert_eq!(chosen(&[served, loaded], Preference::default(), Strategy::FillFirst), "b");
    }

    #[test]
    fn a_key_leads_to_one_account_and_keys_spread_by_weight() {
        let heavy = Candidate { weight: 3, ..A };
        let all = [heavy, B, C];
        let counts = [0, 1, 2].map(|index| {
            let keys = (0..5_000).map(|n| format!("key-{n}"));
            keys.filter(|key| {
                let preference = Preference { origin: None, key: Some(key) };
                select(&all, preference, Strategy::LeastLoaded) == Some(index)
            })
            .count()
        });
        assert!(counts[0].abs_diff(3_000) < 200 && counts[1].abs_diff(1_000) < 200, "{counts:?}");
        for n in 0..100 {
            let key = format!("key-{n}");
            let preference = Preference { origin: None, key: Some(&key) };
            let loaded = all.map(|candidate| Candidate { in_flight: n, share: f64::from(n), ..candidate });
            let name = chosen(&all, preference, Strategy::LeastLoaded);
            assert_eq!(chosen(&loaded, preference, Strategy::RoundRobin), name, "load does not matter");
            assert_eq!(chosen(&loaded, preference, Strategy::FillFirst), "a");
            let without: Vec<_> = all.into_iter().filter(|candidate| candidate.name != "c").collect();
            if name != "c" {
                assert_eq!(
                    chosen(&without, preference, Strategy::LeastLoaded),
                    name,
                    "the removal of another account changes nothing"
                );
            }
        }
    }
}
