use antiphon_store::{StoreOptions, SystemClock};

use super::*;
use crate::audit::Actor;

async fn store() -> Arc<dyn Store> {
    antiphon_store::open(&"sqlite::memory:".parse().unwrap(), StoreOptions::default()).await.unwrap()
}

async fn make(store: &dyn Store, name: &str) -> Secret {
    let issuer = Issuer { store, clock: &SystemClock, actor: Actor::CommandLine };
    issuer.create(NewKey { name: name.into(), ..NewKey::default() }).await.unwrap().1
}

fn keys(access: Access) -> Keys {
    Keys::new(access, Arc::new(SystemClock))
}

fn enter(keys: &Keys, secret: &str) -> Result<Caller, Denied> {
    keys.identify(Some(secret.as_bytes()), None)
}

#[tokio::test]
async fn nobody_is_let_in_before_the_keys_are_known() {
    let store = store().await;
    for access in [Access::OpenUntilFirstKey, Access::Keys] {
        let keys = keys(access);
        assert_eq!(enter(&keys, "sk-any").unwrap_err(), Denied::KeysUnknown);
        keys.refresh(&*store).await.unwrap();
        let entered = enter(&keys, "sk-any").map(|caller| caller.project.to_string());
        let open = access == Access::OpenUntilFirstKey;
        assert_eq!(entered.ok(), open.then(|| "default".to_owned()));
    }
    assert!(enter(&keys(Access::Open), "sk-any").is_ok());
}

#[tokio::test]
async fn keys_are_known_for_a_while_without_being_asked_for() {
    let keys = keys(Access::Keys);
    assert!(!keys.is_known(Instant::now()));
    keys.refresh(&*store().await).await.unwrap();
    let now = Instant::now();
    assert!(keys.is_known(now + SERVED_UNASKED - Duration::from_secs(5)));
    assert!(!keys.is_known(now + SERVED_UNASKED));
}

#[tokio::test]
async fn a_caller_is_asked_again_as_keys_are_then() {
    let store = store().await;
    let keys = keys(Access::OpenUntilFirstKey);
    keys.refresh(&*store).await.unwrap();
    let anybody = enter(&keys, "").unwrap();
    assert!(keys.renew(&anybody).is_ok() && anybody.allows("any model"));
    let secret = make(&*store, "one").await;
    assert!(keys.renew(&anybody).is_ok(), "it is not known here yet");
    keys.refresh(&*store).await.unwrap();
    assert_eq!(keys.renew(&anybody).unwrap_err(), Denied::NoValidKey);
    let caller = enter(&keys, secret.expose()).unwrap();
    assert_eq!(keys.renew(&caller).unwrap().project, caller.project);
    store
        .revoke_key(
            caller.key.as_ref().unwrap().id,
            crate::audit::entry(&SystemClock, Actor::Gateway, "a", "b"),
        )
        .await
        .unwrap();
    keys.refresh(&*store).await.unwrap();
    assert_eq!(keys.renew(&caller).unwrap_err(), Denied::NoValidKey);
}

#[tokio::test]
async fn the_latest_use_is_written_down_once_and_outlives_what_is_read_again() {
    let store = store().await;
    let (one, _) = (make(&*store, "one").await, make(&*store, "two").await);
    let keys = keys(Access::Keys);
    keys.refresh(&*store).await.unwrap();
    enter(&keys, one.expose()).unwrap();
    make(&*store, "three").await;
    keys.refresh(&*store).await.unwrap();
    let mut noted = HashMap::new();
    keys.note_uses(&*store, &mut noted).await.unwrap();
    let used = |key: &StoredKey| key.last_used_at.is_some();
    let stored = store.list_keys().await.unwrap();
    assert_eq!(stored.iter().filter(|key| used(key)).map(|key| &key.name).collect::<Vec<_>>(), ["one"]);
    assert_eq!(noted.len(), 1);
    keys.note_uses(&*store, &mut noted).await.unwrap();
    assert_eq!(store.list_keys().await.unwrap(), stored);
}

#[tokio::test]
async fn a_key_that_can_not_be_read_lets_nobody_in_and_hurts_no_other() {
    let store = store().await;
    let good = make(&*store, "good").await;
    let bad = Secret::mint();
    let mut key = store.load_key("good").await.unwrap().unwrap();
    key.id = KeyId::mint(1, &[1; 10]);
    (key.name, key.hash, key.models) = ("bad".into(), bad.hash(), r#"["["]"#.into());
    store.add_key(key, crate::audit::entry(&SystemClock, Actor::Gateway, "a", "b")).await.unwrap();
    let keys = keys(Access::Keys);
    keys.refresh(&*store).await.unwrap();
    assert_eq!(enter(&keys, bad.expose()).unwrap_err(), Denied::NoValidKey);
    assert!(enter(&keys, good.expose()).is_ok());
    let shown = format!("{:?} {:?}", enter(&keys, good.expose()).unwrap(), keys.table.load());
    assert!(!shown.contains(&good.expose()[12..]), "nothing prints a secret");
}
