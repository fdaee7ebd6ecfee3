//! Account state and tokens, for all replicas and after a restart.

use std::time::Duration;

use antiphon_store::{CredentialLock, StoredAccount, StoredCredential, Timestamp};
use uuid::Uuid;

use crate::fixture::{Fixture, after, entry};

fn account(name: &str) -> StoredAccount {
    StoredAccount {
        name: name.into(),
        identity: "i1".into(),
        changed_at: after(0),
        cooling: Some((after(60), "rate_limit".into())),
        disabled_at: None,
        paused_at: None,
    }
}

fn lock(holder: u128, now: Timestamp) -> CredentialLock {
    CredentialLock { holder: Uuid::from_u128(holder), now, until: now.plus(Duration::from_secs(90)) }
}

fn credential(sealed: &[u8]) -> StoredCredential {
    StoredCredential { origin: "o".into(), sealed: Some(sealed.to_vec()) }
}

pub(crate) async fn the_latest_account_state_is_kept(fixture: impl Fixture) {
    let store = fixture.open().await;
    assert_eq!(store.list_accounts().await.unwrap(), []);
    store.put_account(account("b")).await.unwrap();
    store.put_account(account("a")).await.unwrap();
    assert_eq!(store.list_accounts().await.unwrap(), [account("a"), account("b")]);
    let changed =
        StoredAccount { cooling: None, disabled_at: Some(after(5)), identity: "i2".into(), ..account("b") };
    store.put_account(changed.clone()).await.unwrap();
    assert_eq!(store.list_accounts().await.unwrap(), [account("a"), changed.clone()]);
    if fixture.survives() {
        store.close().await;
        assert_eq!(fixture.open().await.list_accounts().await.unwrap(), [account("a"), changed]);
    }
}

pub(crate) async fn a_replica_neither_shortens_a_limit_nor_enables_an_account_of_another(
    fixture: impl Fixture,
) {
    let store = fixture.open().await;
    let cooling = |seconds, reason: &str| Some((after(seconds), reason.to_owned()));
    let put = async |seconds, cooling| {
        let change = StoredAccount { changed_at: after(seconds), cooling, ..account("a") };
        store.put_account(change).await.unwrap();
        store.list_accounts().await.unwrap().remove(0).cooling
    };
    assert_eq!(put(0, cooling(30, "failures")).await, cooling(30, "failures"));
    assert_eq!(put(1, None).await, None, "a probe ends a cooldown after failures");
    assert_eq!(put(2, cooling(3_600, "quota")).await, cooling(3_600, "quota"));
    assert_eq!(put(2, cooling(5, "rate_limit")).await, cooling(3_600, "quota"));
    assert_eq!(put(3, None).await, cooling(3_600, "quota"));
    assert_eq!(put(4, cooling(7_200, "rate_limit")).await, cooling(7_200, "rate_limit"));
    store.put_account(StoredAccount { disabled_at: Some(after(5)), ..account("a") }).await.unwrap();
    put(6, None).await;
    assert_eq!(store.list_accounts().await.unwrap()[0].disabled_at, Some(after(5)));
    assert!(store.resume_account("a", entry(after(7))).await.unwrap());
    assert_eq!(put(8, cooling(9, "rate_limit")).await, cooling(9, "rate_limit"));
    assert_eq!(store.list_accounts().await.unwrap()[0].disabled_at, None);

    assert_eq!(put(9, None).await, None, "the limit is over");

    put(1_000, cooling(3_600, "quota")).await;
    assert_eq!(put(989, None).await, None, "the clock was set back");
    put(990, cooling(3_600, "quota")).await;
    let renewed = StoredAccount { identity: "i2".into(), cooling: None, ..account("a") };
    store.put_account(renewed.clone()).await.unwrap();
    assert_eq!(store.list_accounts().await.unwrap(), [renewed], "another credential starts anew");
}

pub(crate) async fn a_pause_stays_until_the_account_is_resumed(fixture: impl Fixture) {
    let store = fixture.open().await;
    assert!(!store.resume_account("a", entry(after(1))).await.unwrap(), "there is nothing to resume");
    store.pause_account("a", entry(after(1))).await.unwrap();
    store.put_account(account("a")).await.unwrap();
    let paused = StoredAccount { paused_at: Some(after(1)), ..account("a") };
    assert_eq!(store.list_accounts().await.unwrap(), [paused]);
    assert!(store.resume_account("a", entry(after(2))).await.unwrap());
    let resumed = StoredAccount { cooling: None, changed_at: after(2), ..account("a") };
    assert_eq!(store.list_accounts().await.unwrap(), [resumed]);
}

pub(crate) async fn one_holder_at_a_time_may_refresh_a_credential(fixture: impl Fixture) {
    let store = fixture.open().await;
    assert_eq!(store.load_credential("a").await.unwrap(), None);
    assert!(store.lock_credential("a", lock(1, after(0))).await.unwrap());
    assert!(store.lock_credential("a", lock(1, after(1))).await.unwrap(), "it may take it again");
    assert!(!store.lock_credential("a", lock(2, after(2))).await.unwrap());
    assert!(store.lock_credential("b", lock(2, after(2))).await.unwrap(), "another account's is free");
    assert!(!store.put_credential("a", credential(b"x"), lock(2, after(3))).await.unwrap());
    assert!(store.put_credential("a", credential(&[0, 255, 7]), lock(1, after(3))).await.unwrap());
    assert_eq!(store.load_credential("a").await.unwrap(), Some(credential(&[0, 255, 7])));
    assert!(store.lock_credential("a", lock(2, after(4))).await.unwrap(), "saving gave it back");
    store.unlock_credential("a", lock(1, after(4))).await.unwrap();
    assert!(!store.lock_credential("a", lock(1, after(5))).await.unwrap(), "only the holder gives it back");
    store.unlock_credential("a", lock(2, after(5))).await.unwrap();
    assert!(store.lock_credential("a", lock(1, after(5))).await.unwrap());
    assert!(store.lock_credential("a", lock(2, after(95))).await.unwrap(), "a holder that is gone loses it");
    assert!(!store.put_credential("a", credential(b"late"), lock(1, after(96))).await.unwrap());
    assert_eq!(store.load_credential("a").await.unwrap(), Some(credential(&[0, 255, 7])));
}

pub(crate) async fn one_of_many_concurrent_callers_gets_the_lock(fixture: impl Fixture) {
    let store = fixture.open().await;
    let tries = (1..=20).map(|holder| store.lock_credential("a", lock(holder, after(0))));
    let got = futures_util::future::join_all(tries).await;
    assert_eq!(got.into_iter().filter(|got| *got.as_ref().unwrap()).count(), 1);
}

pub(crate) async fn the_first_admin_token_stays_until_it_is_replaced(fixture: impl Fixture) {
    let store = fixture.open().await;
    assert_eq!(store.load_admin_token("admin").await.unwrap(), None);
    assert!(store.add_admin_token("admin", vec![1; 32], entry(after(0))).await.unwrap());
    assert!(!store.add_admin_token("admin", vec![2; 32], entry(after(1))).await.unwrap());
    assert_eq!(store.load_admin_token("admin").await.unwrap(), Some(vec![1; 32]));
    store.replace_admin_token("admin", vec![3; 32], entry(after(2))).await.unwrap();
    assert_eq!(store.load_admin_token("admin").await.unwrap(), Some(vec![3; 32]));
    assert!(store.add_admin_token("viewer", vec![4; 32], entry(after(3))).await.unwrap());
    let names = store.list_admin_tokens().await.unwrap();
    assert_eq!(names, [("admin".to_owned(), after(2)), ("viewer".to_owned(), after(3))]);
}
