use antiphon_store::{StoreOptions, SystemClock};

use super::*;
use crate::audit::Actor;

async fn store() -> Arc<dyn Store> {
    antiphon_store::open(&"sqlite::memory:".parse().unwrap(), StoreOptions::default()).await.unwrap()
}

async fn create(store: &dyn Store, name: &str) -> Secret {
    let issuer = Issuer { store, clock: &SystemClock, actor: Actor::CommandLine };
    issuer.create(NewKey { name: name.into(), ..NewKey::default() }).await.unwrap().1
}

fn keys(access: Access) -> Keys {
    Keys::new(access, Arc::new(SystemClock))
}

fn authenticate(keys: &Keys, secret: &str) -> Result<Caller, Denied> {
    keys.authenticate(Some(secret.as_bytes()), None)
}

#[tokio::test]
async fn no_client_is_accepted_before_the_keys_are_loaded() {
    let store = store().await;
    for access in [Access::OpenUntilFirstKey, Access::KeysRequired] {
        let keys = keys(access);
        assert_eq!(authenticate(&keys, "sk-any").unwrap_err(), Denied::KeysUnavailable);
        keys.refresh(&*store).await.unwrap();
        let entered = authenticate(&keys, "sk-any").map(|caller| caller.project.to_string());
        let open = access == Access::OpenUntilFirstKey;
        assert_eq!(entered.ok(), open.then(|| "default".to_owned()));
    }
    assert!(authenticate(&keys(Access::Open), "sk-any").is_ok());
}

#[tokio::test]
async fn keys_are_accepted_for_ten_minutes_without_the_store() {
    let keys = keys(Access::KeysRequired);
    assert!(!keys.is_fresh(Instant::now()));
    keys.refresh(&*store().await).await.unwrap();
    let now = Instant::now();
    assert!(keys.is_fresh(now + MAX_STALENESS - Duration::from_secs(5)));
    assert!(!keys.is_fresh(now + MAX_STALENESS));
}

#[tokio::test]
async fn a_caller_is_authenticated_again_with_the_present_keys() {
    let store = store().await;
    let keys = keys(Access::OpenUntilFirstKey);
    keys.refresh(&*store).await.unwrap();
    let anonymous = authenticate(&keys, "").unwrap();
    assert!(keys.reauthenticate(&anonymous).is_ok() && anonymous.allows("any model"));
    let secret = create(&*store, "one").await;
    assert!(keys.reauthenticate(&anonymous).is_ok(), "the new key is not loaded yet");
    keys.refresh(&*store).await.unwrap();
    assert_eq!(keys.reauthenticate(&anonymous).unwrap_err(), Denied::NoValidKey);
    let caller = authenticate(&keys, secret.expose()).unwrap();
    assert_eq!(keys.reauthenticate(&caller).unwrap().project, caller.project);
    store
        .revoke_key(
            caller.key.as_ref().unwrap().id,
            crate::audit::entry(&SystemClock, Actor::Gateway, "a", "b"),
        )
        .await
        .unwrap();
    keys.refresh(&*store).await.unwrap();
    assert_eq!(keys.reauthenticate(&caller).unwrap_err(), Denied::NoValidKey);
}

#[tokio::test]
async fn the_last_use_is_written_once_and_survives_a_refresh() {
    let store = store().await;
    let (one, _) = (create(&*store, "one").await, create(&*store, "two").await);
    let keys = keys(Access::KeysRequired);
    keys.refresh(&*store).await.unwrap();
    authenticate(&keys, one.expose()).unwrap();
    create(&*store, "three").await;
    keys.refresh(&*store).await.unwrap();
    let mut written = HashMap::new();
    keys.write_last_uses(&*store, &mut written).await.unwrap();
    let is_used = |key: &StoredKey| key.last_used_at.is_some();
    let stored = store.list_keys().await.unwrap();
    assert_eq!(stored.iter().filter(|key| is_used(key)).map(|key| &key.name).collect::<Vec<_>>(), ["one"]);
    assert_eq!(written.len(), 1);
    keys.write_last_uses(&*store, &mut written).await.unwrap();
    assert_eq!(store.list_keys().await.unwrap(), stored);
}

#[tokio::test]
async fn an_invalid_stored_key_is_ignored_and_others_still_work() {
    let store = store().await;
    let good = create(&*store, "good").await;
    let bad = Secret::mint();
    let mut key = store.load_key("good").await.unwrap().unwrap();
    key.id = KeyId::mint(1, &[1; 10]);
    (key.name, key.hash, key.models) = ("bad".into(), bad.hash(), r#"["["]"#.into());
    store.add_key(key, crate::audit::entry(&SystemClock, Actor::Gateway, "a", "b")).await.unwrap();
    let keys = keys(Access::KeysRequired);
    keys.refresh(&*store).await.unwrap();
    assert_eq!(authenticate(&keys, bad.expose()).unwrap_err(), Denied::NoValidKey);
    assert!(authenticate(&keys, good.expose()).is_ok());
    let shown = format!("{:?} {:?}", authenticate(&keys, good.expose()).unwrap(), keys.table.load());
    assert!(!shown.contains(&good.expose()[12..]), "nothing prints a secret");
}

#[tokio::test]
async fn a_name_that_no_url_can_hold_is_refused_but_a_key_that_has_it_works_on() {
    let store = store().await;
    let issuer = Issuer { store: &*store, clock: &SystemClock, actor: Actor::CommandLine };
    create(&*store, "good").await;
    let model = store.load_key("good").await.unwrap().unwrap();
    for (n, name) in [(1, "."), (2, ".."), (3, "new")] {
        let refused = issuer.create(NewKey { name: name.into(), ..NewKey::default() }).await;
        assert!(matches!(refused, Err(KeyError::Invalid { param: "name", .. })), "{name}");
        let secret = Secret::mint();
        let key = StoredKey {
            id: KeyId::mint(1, &[n; 10]),
            name: name.into(),
            hash: secret.hash(),
            ..model.clone()
        };
        store.add_key(key, crate::audit::entry(&SystemClock, Actor::Gateway, "a", "b")).await.unwrap();
        let keys = keys(Access::KeysRequired);
        keys.refresh(&*store).await.unwrap();
        assert!(authenticate(&keys, secret.expose()).is_ok(), "{name}");
        let (_, rotated) = issuer.rotate(name, Duration::ZERO).await.unwrap();
        keys.refresh(&*store).await.unwrap();
        assert!(authenticate(&keys, rotated.expose()).is_ok(), "{name}");
    }
    for name in ["news", "New", "...", "a.b", ".new"] {
        create(&*store, name).await;
    }
}

#[tokio::test]
async fn clients_of_a_key_are_written_and_survive_a_refresh() {
    let store = store().await;
    let secret = create(&*store, "one").await;
    let keys = keys(Access::KeysRequired);
    keys.refresh(&*store).await.unwrap();
    let caller = authenticate(&keys, secret.expose()).unwrap();
    keys.note_client(&caller, "curl/8.5.0");
    create(&*store, "two").await;
    keys.refresh(&*store).await.unwrap();
    keys.note_client(&caller, "OpenAI/Python 2.8.1 (Linux)");
    keys.write_clients(&*store).await.unwrap();
    let id = caller.key.as_ref().unwrap().id;
    let mut names: Vec<_> =
        store.list_key_clients(id).await.unwrap().into_iter().map(|client| client.name).collect();
    names.sort();
    assert_eq!(names, ["OpenAI/Python 2.8.1", "curl/8.5.0"]);
}
