//! Keys, and the audit log.

use antiphon_protocol::id::KeyId;
use antiphon_store::{AuditEntry, AuditQuery, Expiry, KeyClient, KeyTerms, Rotation, SecretHash, StoredKey};

use crate::fixture::{Fixture, after, entry, key, newest};

/// A client that used a key after so many seconds.
pub(crate) fn client(name: &str, seconds: u64) -> KeyClient {
    KeyClient { name: name.into(), used_at: after(seconds) }
}

pub(crate) async fn an_added_key_comes_back_unchanged(fixture: impl Fixture) {
    let store = fixture.open().await;
    assert_eq!(store.list_keys().await.unwrap(), []);
    let endless = StoredKey { expires_at: None, models: "[]".into(), ..key("b", 2) };
    for key in [&endless, &key("a", 1)] {
        assert!(store.add_key(key.clone(), entry(after(0))).await.unwrap());
    }
    assert_eq!(store.list_keys().await.unwrap(), [key("a", 1), endless.clone()]);
    assert_eq!(store.load_key("b").await.unwrap(), Some(endless.clone()));
    assert_eq!(store.load_key("B").await.unwrap(), None);
    if fixture.survives() {
        store.close().await;
        assert_eq!(fixture.open().await.list_keys().await.unwrap(), [key("a", 1), endless]);
    }
}

pub(crate) async fn two_keys_never_share_a_name(fixture: impl Fixture) {
    let store = fixture.open().await;
    let adds = (1..=10).map(|secret| store.add_key(key("a", secret), entry(after(0))));
    let added = futures_util::future::join_all(adds).await;
    assert_eq!(added.into_iter().filter(|added| *added.as_ref().unwrap()).count(), 1);
    assert_eq!(store.list_keys().await.unwrap().len(), 1);
    assert_eq!(
        store.list_audit(newest(100)).await.unwrap().len(),
        1,
        "a change that did not happen has no entry"
    );
}

pub(crate) async fn a_rotated_key_keeps_its_previous_secret(fixture: impl Fixture) {
    let store = fixture.open().await;
    store.add_key(key("a", 1), entry(after(0))).await.unwrap();
    let id = key("a", 1).id;
    for (secret, end) in [(2, 10), (3, 20)] {
        let prefix = format!("apn-{secret}");
        let previous = SecretHash([secret - 1; 32]);
        let rotation =
            Rotation { hash: SecretHash([secret; 32]), prefix, previous, previous_until: after(end) };
        assert!(store.rotate_key(id, rotation.clone(), entry(after(1))).await.unwrap());
        assert!(!store.rotate_key(id, rotation.clone(), entry(after(1))).await.unwrap(), "it was rotated");
        let unknown = KeyId::mint(1, &[9; 10]);
        assert!(!store.rotate_key(unknown, rotation, entry(after(1))).await.unwrap());
    }
    let rotated = StoredKey {
        hash: SecretHash([3; 32]),
        prefix: "apn-3".into(),
        previous: Some((SecretHash([2; 32]), after(20))),
        ..key("a", 1)
    };
    assert_eq!(store.list_keys().await.unwrap(), [rotated]);
}

pub(crate) async fn a_revoked_key_is_neither_rotated_nor_revoked_again(fixture: impl Fixture) {
    let store = fixture.open().await;
    store.add_key(key("a", 1), entry(after(0))).await.unwrap();
    let id = key("a", 1).id;
    assert!(store.revoke_key(id, entry(after(5))).await.unwrap());
    assert!(!store.revoke_key(id, entry(after(6))).await.unwrap());
    let rotation = Rotation {
        hash: SecretHash([2; 32]),
        prefix: "apn-2".into(),
        previous: SecretHash([1; 32]),
        previous_until: after(9),
    };
    assert!(!store.rotate_key(id, rotation, entry(after(7))).await.unwrap());
    let revoked = StoredKey { revoked_at: Some(after(5)), ..key("a", 1) };
    assert_eq!(store.list_keys().await.unwrap(), [revoked]);
    assert!(!store.add_key(key("a", 3), entry(after(8))).await.unwrap(), "its name stays taken");
}

pub(crate) async fn a_deleted_key_is_gone(fixture: impl Fixture) {
    let store = fixture.open().await;
    store.add_key(key("a", 1), entry(after(0))).await.unwrap();
    assert!(store.delete_key(key("a", 1).id, entry(after(1))).await.unwrap());
    assert!(!store.delete_key(key("a", 1).id, entry(after(1))).await.unwrap());
    assert_eq!(store.list_keys().await.unwrap(), []);
    assert!(store.add_key(key("a", 1), entry(after(2))).await.unwrap(), "its name is free");
}

pub(crate) async fn a_change_of_a_key_changes_the_version(fixture: impl Fixture) {
    let store = fixture.open().await;
    let mut seen = vec![store.keys_version().await.unwrap()];
    let id = key("a", 1).id;
    let rotation = || Rotation {
        hash: SecretHash([2; 32]),
        prefix: "apn-2".into(),
        previous: SecretHash([1; 32]),
        previous_until: after(9),
    };
    store.add_key(key("a", 1), entry(after(0))).await.unwrap();
    seen.push(store.keys_version().await.unwrap());
    store.rotate_key(id, rotation(), entry(after(0))).await.unwrap();
    seen.push(store.keys_version().await.unwrap());
    store.revoke_key(id, entry(after(0))).await.unwrap();
    seen.push(store.keys_version().await.unwrap());
    store.delete_key(id, entry(after(0))).await.unwrap();
    seen.push(store.keys_version().await.unwrap());
    let same = seen.last().copied();
    store.revoke_key(id, entry(after(0))).await.unwrap();
    store.note_key_use(id, after(1)).await.unwrap();
    assert_eq!(store.keys_version().await.ok(), same, "nothing has changed");
    seen.dedup();
    assert_eq!(seen.len(), 5, "{seen:?}");
}

pub(crate) async fn a_change_of_a_key_leaves_its_other_terms_alone(fixture: impl Fixture) {
    let store = fixture.open().await;
    store.add_key(key("a", 1), entry(after(0))).await.unwrap();
    let changes = [
        KeyTerms { models: Some("[\"m\"]".into()), ..KeyTerms::default() },
        KeyTerms { limits: Some("{\"concurrent_turns\":1}".into()), ..KeyTerms::default() },
        KeyTerms { expiry: Some(Expiry::At(after(9))), ..KeyTerms::default() },
    ];
    let all = changes.map(|terms| store.change_key(key("a", 1).id, terms, entry(after(1))));
    assert!(futures_util::future::join_all(all).await.into_iter().all(Result::unwrap));
    let changed = StoredKey {
        models: "[\"m\"]".into(),
        limits: "{\"concurrent_turns\":1}".into(),
        expires_at: Some(after(9)),
        ..key("a", 1)
    };
    assert_eq!(store.load_key("a").await.unwrap(), Some(changed.clone()));
    let endless = KeyTerms { expiry: Some(Expiry::Never), ..KeyTerms::default() };
    assert!(store.change_key(key("a", 1).id, endless, entry(after(2))).await.unwrap());
    assert_eq!(store.load_key("a").await.unwrap(), Some(StoredKey { expires_at: None, ..changed }));
}

pub(crate) async fn keys_come_page_by_page(fixture: impl Fixture) {
    let store = fixture.open().await;
    // In the order of their bytes, whatever the language of the database.
    let names = ["A", "B-2", "B_1", "a", "b"];
    for (secret, name) in (1..).zip(["b", "B_1", "a", "B-2", "A"]) {
        store.add_key(key(name, secret), entry(after(0))).await.unwrap();
    }
    let mut seen: Vec<String> = Vec::new();
    loop {
        let after = seen.last().cloned().unwrap_or_default();
        let page = store.list_keys_after(&after, 2).await.unwrap();
        assert!(page.len() <= 2);
        if page.is_empty() {
            break;
        }
        seen.extend(page.into_iter().map(|key| key.name));
    }
    assert_eq!(seen, names);
}

pub(crate) async fn the_latest_use_of_a_key_is_kept(fixture: impl Fixture) {
    let store = fixture.open().await;
    store.add_key(key("a", 1), entry(after(0))).await.unwrap();
    for seconds in [5, 7, 6] {
        store.note_key_use(key("a", 1).id, after(seconds)).await.unwrap();
    }
    let used = StoredKey { last_used_at: Some(after(7)), ..key("a", 1) };
    assert_eq!(store.list_keys().await.unwrap(), [used]);
}

pub(crate) async fn the_latest_clients_of_a_key_are_kept_until_it_is_deleted(fixture: impl Fixture) {
    let store = fixture.open().await;
    store.add_key(key("a", 1), entry(after(0))).await.unwrap();
    let id = key("a", 1).id;
    for (name, seconds) in [("curl/8", 5), ("ü\0", 7), ("curl/8", 6), ("ü\0", 3)] {
        store.note_key_client(id, client(name, seconds)).await.unwrap();
    }
    let both = [client("ü\u{fffd}", 7), client("curl/8", 6)];
    assert_eq!(store.list_key_clients(id).await.unwrap(), both);
    for n in 10..40 {
        store.note_key_client(id, client(&n.to_string(), n)).await.unwrap();
    }
    let kept = store.list_key_clients(id).await.unwrap();
    assert_eq!(kept, (20..40).rev().map(|n| client(&n.to_string(), n)).collect::<Vec<_>>());
    assert_eq!(store.list_key_clients(key("b", 2).id).await.unwrap(), []);
    store.delete_key(id, entry(after(1))).await.unwrap();
    store.note_key_client(id, client("late", 50)).await.unwrap();
    store.add_key(key("a", 1), entry(after(2))).await.unwrap();
    assert_eq!(store.list_key_clients(id).await.unwrap(), []);
}

pub(crate) async fn a_change_and_its_audit_entry_are_one_transaction(fixture: impl Fixture) {
    let store = fixture.open().await;
    let first = entry(after(0));
    store.add_key(key("a", 1), first.clone()).await.unwrap();
    // The same entry can't be written twice, so the rest of the change is not written either.
    assert!(store.revoke_key(key("a", 1).id, first.clone()).await.is_err());
    assert_eq!(store.list_keys().await.unwrap(), [key("a", 1)]);
    assert_eq!(store.list_audit(newest(10)).await.unwrap(), [first]);
}

pub(crate) async fn audit_entries_come_newest_first(fixture: impl Fixture) {
    let store = fixture.open().await;
    let entries: Vec<_> = [3, 1, 2, 2].into_iter().map(|seconds| entry(after(seconds))).collect();
    store.add_key(key("a", 1), entries[0].clone()).await.unwrap();
    store.pause_account("one", entries[1].clone()).await.unwrap();
    store.resume_account("one", entries[2].clone()).await.unwrap();
    store.add_admin_token("admin", vec![1; 32], entries[3].clone()).await.unwrap();
    let newest_first = [0, 3, 2, 1].map(|n: usize| entries[n].clone());
    assert_eq!(store.list_audit(newest(10)).await.unwrap(), newest_first);
    let mut after_which = None;
    for expected in &newest_first {
        let page = store.list_audit(AuditQuery { after: after_which, ..newest(1) }).await.unwrap();
        assert_eq!(page, std::slice::from_ref(expected));
        after_which = Some(expected.id());
    }
    assert_eq!(store.list_audit(AuditQuery { after: after_which, ..newest(1) }).await.unwrap(), []);
    assert_eq!(newest_first[0].at(), after(3));
}

pub(crate) async fn audit_entries_are_found_by_time_actor_action_and_target(fixture: impl Fixture) {
    let store = fixture.open().await;
    let made = [("a", "key.created", "one"), ("b", "key.revoked", "one"), ("a", "keys", "two")];
    for (second, (actor, action, target)) in (1..).zip(made) {
        let entry = AuditEntry::new(after(second), &[0; 10], actor, action, target);
        store.add_audit(entry).await.unwrap();
    }
    let found = async |query: AuditQuery| -> Vec<String> {
        let entries = store.list_audit(AuditQuery { max_rows: 10, ..query }).await.unwrap();
        entries.into_iter().map(|entry| entry.action).collect()
    };
    let any = AuditQuery::default;
    let word = |text: &str| Some(text.to_owned());
    assert_eq!(found(any()).await, ["keys", "key.revoked", "key.created"]);
    assert_eq!(found(AuditQuery { from: Some(after(2)), ..any() }).await, ["keys", "key.revoked"]);
    assert_eq!(found(AuditQuery { to: Some(after(2)), ..any() }).await, ["key.created"]);
    assert_eq!(found(AuditQuery { actor: word("a"), ..any() }).await, ["keys", "key.created"]);
    assert_eq!(found(AuditQuery { target: word("one"), ..any() }).await, ["key.revoked", "key.created"]);
    assert_eq!(found(AuditQuery { action: word("key"), ..any() }).await, ["key.revoked", "key.created"]);
    assert_eq!(found(AuditQuery { action: word("key.created"), ..any() }).await, ["key.created"]);
    assert!(found(AuditQuery { action: word("key.%"), ..any() }).await.is_empty());
    let both = AuditQuery { actor: word("a"), target: word("one"), ..any() };
    assert_eq!(found(both).await, ["key.created"]);
}
