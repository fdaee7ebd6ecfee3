//! Sign-ins that wait for the identity provider.

use antiphon_store::{SecretHash, StoredSignIn};

use crate::fixture::{Fixture, NOW, after};

fn hash(n: u8) -> SecretHash {
    SecretHash([n; 32])
}

fn sign_in(n: u8, seconds: u64) -> StoredSignIn {
    StoredSignIn {
        hash: hash(n),
        state: "s".into(),
        nonce: "n".into(),
        verifier: "v".into(),
        next: Some("/keys".into()).filter(|_| n.is_multiple_of(2)),
        expires_at: after(seconds),
    }
}

pub(crate) async fn a_sign_in_ends_once_and_not_after_its_time(fixture: impl Fixture) {
    let store = fixture.open().await;
    for n in 1..=2 {
        store.add_sign_in(sign_in(n, 10), NOW, 9).await.unwrap();
        assert_eq!(store.load_sign_in(hash(n), after(9)).await.unwrap(), Some(sign_in(n, 10)));
    }
    assert_eq!(store.load_sign_in(hash(1), after(10)).await.unwrap(), None);
    assert_eq!(store.load_sign_in(hash(3), NOW).await.unwrap(), None);
    assert!(store.end_sign_in(hash(1)).await.unwrap());
    assert!(!store.end_sign_in(hash(1)).await.unwrap());
    assert_eq!(store.load_sign_in(hash(1), NOW).await.unwrap(), None);
    store.add_sign_in(sign_in(3, 20), after(10), 9).await.unwrap();
    assert!(!store.end_sign_in(hash(2)).await.unwrap(), "the expired one has been removed");
}

pub(crate) async fn the_oldest_of_too_many_sign_ins_make_room(fixture: impl Fixture) {
    let store = fixture.open().await;
    for n in 1..=5 {
        store.add_sign_in(sign_in(n, n.into()), NOW, 3).await.unwrap();
    }
    for (n, is_there) in [(1, false), (2, false), (3, true), (4, true), (5, true)] {
        assert_eq!(store.load_sign_in(hash(n), NOW).await.unwrap().is_some(), is_there, "{n}");
    }
}
