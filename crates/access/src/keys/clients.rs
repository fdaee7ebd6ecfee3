//! Which clients use a key, by the name that they give themselves. What is in memory is bounded, whatever names they choose.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use antiphon_store::{KeyClient, Timestamp};
use arc_swap::ArcSwap;

/// How many clients of a key are in memory: those that used it last.
const MAX_CLIENTS: usize = 8;
const MAX_NAME_BYTES: usize = 64;
/// The precision of a client's last use.
const USE_RESOLUTION_MS: i64 = 1_000;

/// The clients of a key that used it since the start of the process.
#[derive(Debug, Default)]
pub(super) struct Clients(ArcSwap<Vec<Arc<Client>>>);

#[derive(Debug)]
pub(super) struct Client {
    pub(super) name: String,
    /// In UTC milliseconds.
    used_at: AtomicI64,
    written_at: AtomicI64,
}

/// The name in a user agent: what comes before the first comment, such as `OpenAI/Python 2.8.1`.
fn name_in(user_agent: &str) -> Option<&str> {
    let name = user_agent.split('(').next().unwrap_or_default();
    let end = name.floor_char_boundary(MAX_NAME_BYTES);
    Some(name[..end].trim()).filter(|name| !name.is_empty())
}

// === impl Clients ===

impl Clients {
    /// Written at most once a second, so that workers do not contend for the cache line with every request.
    pub(super) fn mark_used(&self, user_agent: &str, now: Timestamp) {
        let (Some(name), now) = (name_in(user_agent), now.unix_ms()) else { return };
        if let Some(client) = self.0.load().iter().find(|client| client.name == name) {
            if now - client.used_at.load(Ordering::Relaxed) >= USE_RESOLUTION_MS {
                client.used_at.store(now, Ordering::Relaxed);
            }
            return;
        }
        let new = Arc::new(Client {
            name: name.to_owned(),
            used_at: AtomicI64::new(now),
            written_at: AtomicI64::default(),
        });
        self.0.rcu(|clients| {
            let others = clients.iter().filter(|client| client.name != name).cloned();
            let mut clients: Vec<_> = others.chain([Arc::clone(&new)]).collect();
            if clients.len() > MAX_CLIENTS {
                clients.sort_by_key(|client| std::cmp::Reverse(client.used_at.load(Ordering::Relaxed)));
                clients.truncate(MAX_CLIENTS);
            }
            clients
        });
    }

    pub(super) fn list(&self) -> Vec<KeyClient> {
        let used_at = |client: &Client| Timestamp::from_unix_ms(client.used_at.load(Ordering::Relaxed));
        let clients = self.0.load();
        clients
            .iter()
            .map(|client| KeyClient { name: client.name.clone(), used_at: used_at(client) })
            .collect()
    }

    /// The clients whose last use is not written yet, each with that use.
    pub(super) fn unwritten(&self) -> Vec<(Arc<Client>, Timestamp)> {
        let clients = self.0.load();
        let uses = clients.iter().map(|client| (client, client.used_at.load(Ordering::Relaxed)));
        let unwritten = uses.filter(|(client, at)| *at > client.written_at.load(Ordering::Relaxed));
        unwritten.map(|(client, at)| (Arc::clone(client), Timestamp::from_unix_ms(at))).collect()
    }
}

// === impl Client ===

impl Client {
    pub(super) fn note_written(&self, at: Timestamp) {
        self.written_at.store(at.unix_ms(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(clients: &Clients) -> Vec<(String, i64)> {
        let unwritten = clients.unwritten().into_iter();
        let mut names: Vec<_> = unwritten.map(|(client, at)| (client.name.clone(), at.unix_ms())).collect();
        names.sort();
        names
    }

    #[test]
    fn a_client_is_known_by_what_comes_before_comments() {
        for (user_agent, name) in [
            ("OpenAI/Python 2.8.1", Some("OpenAI/Python 2.8.1")),
            ("codex_cli_rs/0.169.0 (Debian 12.0.0; x86_64) xterm", Some("codex_cli_rs/0.169.0")),
            ("(nothing) x", None),
            ("  ", None),
        ] {
            assert_eq!(name_in(user_agent), name);
        }
        assert_eq!(name_in(&"ü".repeat(100)).map(str::len), Some(MAX_NAME_BYTES));
    }

    #[test]
    fn the_clients_that_used_a_key_last_are_remembered() {
        let clients = Clients::default();
        for n in 0..20 {
            clients.mark_used(&n.to_string(), Timestamp::from_unix_ms(n * 10_000));
            clients.mark_used("often", Timestamp::from_unix_ms(n * 10_000 + 1));
        }
        assert_eq!(clients.0.load().len(), MAX_CLIENTS);
        let names = names(&clients);
        assert!(names.contains(&("19".into(), 190_000)) && names.contains(&("often".into(), 190_001)));
    }

    #[test]
    fn a_use_is_written_once() {
        let clients = Clients::default();
        clients.mark_used("curl/8", Timestamp::from_unix_ms(5));
        let unwritten = clients.unwritten();
        let (client, at) = &unwritten[0];
        client.note_written(*at);
        clients.mark_used("curl/8", Timestamp::from_unix_ms(900));
        assert!(clients.unwritten().is_empty(), "within the same second");
        clients.mark_used("curl/8", Timestamp::from_unix_ms(1_005));
        assert_eq!(names(&clients), [("curl/8".to_owned(), 1_005)]);
    }
}
