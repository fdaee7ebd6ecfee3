//! Sessions of operators.

use antiphon_store::{SESSIONS_PER_OPERATOR, SecretHash, StoredSession};
use uuid::Uuid;

use crate::fixture::{Fixture, NOW, after, entry, newest};

/// A session of the viewer's token that lives for so many seconds.
pub(crate) fn session(n: u8, seconds: u64) -> StoredSession {
    StoredSession {
        id: Uuid::from_u128(n.into()),
        hash: SecretHash([n; 32]),
        role: "viewer".into(),
        operator: None,
        address: Some("192.0.2.1".into()).filter(|_| n.is_multiple_of(2)),
        created_at: NOW,
        expires_at: after(seconds),
    }
}

pub(crate) async fn a_session_is_found_by_its_hash_until_it_expires(fixture: impl Fixture) {
    let store = fixture.open().await;
    store.add_session(session(1, 10), entry(NOW)).await.unwrap();
    let load = async |n, now| store.load_session(SecretHash([n; 32]), now).await.unwrap();
    assert_eq!(load(1, after(9)).await, Some(session(1, 10)));
    assert_eq!(load(1, after(10)).await, None);
    assert_eq!(load(2, NOW).await, None);
    let later = StoredSession { created_at: after(10), ..session(2, 20) };
    store.add_session(later.clone(), entry(after(10))).await.unwrap();
    assert_eq!(store.list_sessions(NOW, 9).await.unwrap(), [later], "the expired one has been removed");
}

pub(crate) async fn an_ended_session_is_gone(fixture: impl Fixture) {
    let store = fixture.open().await;
    for n in 1..=3 {
        store.add_session(session(n, 10), entry(NOW)).await.unwrap();
    }
    assert!(store.end_session(session(2, 10).id, entry(after(1))).await.unwrap());
    assert!(!store.end_session(session(2, 10).id, entry(after(2))).await.unwrap());
    let left = store.list_sessions(NOW, 9).await.unwrap();
    assert_eq!(left.iter().map(|session| session.id.as_u128()).collect::<Vec<_>>(), [3, 1]);
    assert!(store.end_sessions(entry(after(3))).await.unwrap());
    assert!(!store.end_sessions(entry(after(4))).await.unwrap());
    assert_eq!(store.list_sessions(NOW, 9).await.unwrap(), []);
    assert_eq!(store.list_audit(newest(9)).await.unwrap().len(), 5, "only changes are in the audit log");
}

pub(crate) async fn another_token_ends_the_sessions_of_its_role(fixture: impl Fixture) {
    let store = fixture.open().await;
    let admin = StoredSession { role: "admin".into(), ..session(2, 10) };
    store.add_session(session(1, 10), entry(NOW)).await.unwrap();
    let named = StoredSession { operator: Some("ü@example.com".into()), ..session(3, 10) };
    store.add_session(admin.clone(), entry(NOW)).await.unwrap();
    store.add_session(named.clone(), entry(NOW)).await.unwrap();
    store.replace_admin_token("viewer", vec![1; 32], entry(after(1))).await.unwrap();
    assert_eq!(store.list_sessions(NOW, 9).await.unwrap(), [named, admin], "who needed no token stays");
}

pub(crate) async fn a_replaced_token_opens_no_session(fixture: impl Fixture) {
    let store = fixture.open().await;
    let open = async |n: u8, token: u8| {
        store.add_token_session(session(n, 10), vec![token; 32], entry(NOW)).await.unwrap()
    };
    assert!(!open(1, 1).await, "there is no token");
    store.replace_admin_token("viewer", vec![1; 32], entry(NOW)).await.unwrap();
    store.replace_admin_token("admin", vec![2; 32], entry(NOW)).await.unwrap();
    assert!(open(2, 1).await);
    assert!(!open(3, 2).await, "the token of another role");
    store.replace_admin_token("viewer", vec![3; 32], entry(NOW)).await.unwrap();
    assert!(!open(4, 1).await);
    assert!(open(5, 3).await);
    assert_eq!(store.list_sessions(NOW, 9).await.unwrap(), [session(5, 10)]);
    assert_eq!(store.list_audit(newest(9)).await.unwrap().len(), 5, "only changes are in the audit log");
}

pub(crate) async fn no_session_outlives_the_token_that_it_was_opened_with(fixture: impl Fixture) {
    let store = fixture.open().await;
    store.replace_admin_token("viewer", vec![0; 32], entry(NOW)).await.unwrap();
    for round in 0..20_u8 {
        let opened =
            (1..=5).map(|n| store.add_token_session(session(round * 5 + n, 10), vec![round; 32], entry(NOW)));
        let replaced = store.replace_admin_token("viewer", vec![round + 1; 32], entry(NOW));
        let (opened, replaced) = futures_util::join!(futures_util::future::try_join_all(opened), replaced);
        opened.unwrap();
        replaced.unwrap();
        assert_eq!(store.list_sessions(NOW, 9).await.unwrap(), [], "round {round}");
    }
}

pub(crate) async fn the_oldest_of_too_many_sessions_of_an_operator_are_surplus(fixture: impl Fixture) {
    let store = fixture.open().await;
    let at = |n: u8, operator: &str| StoredSession {
        operator: Some(operator.to_owned()).filter(|name| !name.is_empty()),
        created_at: after(n.into()),
        ..session(n, 1_000)
    };
    let most = u8::try_from(SESSIONS_PER_OPERATOR).unwrap();
    let others = [at(1, "ü@example.com"), StoredSession { role: "admin".into(), ..at(2, "") }];
    for session in others {
        store.add_session(session, entry(NOW)).await.unwrap();
    }
    let surplus = async |role: &str, operator: Option<&str>| {
        let ids = store.list_surplus_sessions(role, operator).await.unwrap();
        ids.iter().map(Uuid::as_u128).collect::<Vec<_>>()
    };
    for n in 3..most + 3 {
        store.add_session(at(n, ""), entry(NOW)).await.unwrap();
    }
    assert!(surplus("viewer", None).await.is_empty());
    for n in most + 3..most + 5 {
        store.add_session(at(n, ""), entry(NOW)).await.unwrap();
    }
    assert_eq!(surplus("viewer", None).await, [4, 3]);
    assert!(surplus("viewer", Some("ü@example.com")).await.is_empty());
    assert!(surplus("admin", None).await.is_empty());
}
