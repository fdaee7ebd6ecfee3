//! An item is found by its id, wherever it was recorded last.

use antiphon_protocol::id::ItemId;
use antiphon_store::{IndexedItem, StoredTurn};

use crate::fixture::{Fixture, NOW, after, id, project, record, record_all, record_of, turn};

fn item(name: &str) -> ItemId {
    ItemId::new(name).unwrap()
}

fn found(json: &'static str, is_output: bool) -> Option<IndexedItem> {
    Some(IndexedItem { item: json.into(), is_output })
}

pub(crate) async fn an_item_is_found_by_its_id(fixture: impl Fixture) {
    let store = fixture.open().await;
    let odd = StoredTurn {
        input: r#"[{"role":"user"} , {"id":"in","n":1.0e2}]"#.into(),
        output: r#"[ {"id":"out\u002f'%","x":[{"id":"inner"}]} ]"#.into(),
        ..turn(1, None)
    };
    store.record(record_of("p", odd)).await.unwrap();
    let ids = ["out/'%", "in", "inner", "unknown"].map(item);
    let expected = [
        found(r#"{"id":"out\u002f'%","x":[{"id":"inner"}]}"#, true),
        found(r#"{"id":"in","n":1.0e2}"#, false),
        None,
        None,
    ];
    assert_eq!(store.load_items(&project("p"), &ids, NOW).await.unwrap(), expected);
    assert_eq!(store.load_items(&project("p"), &[], NOW).await.unwrap(), []);
}

pub(crate) async fn the_newest_recording_of_an_item_wins(fixture: impl Fixture) {
    let store = fixture.open().await;
    let with = |n, input: &'static str| record_of("p", StoredTurn { input: input.into(), ..turn(n, None) });
    store.record(with(1, r#"[{"id":"i","n":1}]"#)).await.unwrap();
    store.record(with(2, r#"[0,{"id":"i","n":2}]"#)).await.unwrap();
    let load = async || store.load_items(&project("p"), &[item("i")], NOW).await.unwrap();
    assert_eq!(load().await, [found(r#"{"id":"i","n":2}"#, false)]);
    store.record(with(3, r#"[{"id":"i","n":3},{"id":"i","n":4}]"#)).await.unwrap();
    assert_eq!(load().await, [found(r#"{"id":"i","n":4}"#, false)]);
}

pub(crate) async fn a_derived_id_finds_an_input_item(fixture: impl Fixture) {
    let store = fixture.open().await;
    store.record(record(1, None)).await.unwrap();
    let ids = [
        ItemId::derived(id(1), 0),
        // An output item has no derived id, and there is no third item.
        ItemId::derived(id(1), 1),
        ItemId::derived(id(1), u32::MAX),
        ItemId::derived(id(2), 0),
    ];
    let loaded = store.load_items(&project("p"), &ids, NOW).await.unwrap();
    assert_eq!(loaded, [found(r#"{"role":"user","content":"1"}"#, false), None, None, None]);
    // A client that sends an item with such an id has recorded it under it.
    let own = format!(r#"[{{"id":"{}","n":1}}]"#, ids[0]);
    store.record(record_of("p", StoredTurn { input: own.clone().into(), ..turn(3, None) })).await.unwrap();
    let loaded = store.load_items(&project("p"), &ids[..1], NOW).await.unwrap();
    assert_eq!(loaded[0].as_ref().unwrap().item, &own[1..own.len() - 1]);
}

pub(crate) async fn items_of_hidden_responses_are_not_found(fixture: impl Fixture) {
    let store = fixture.open().await;
    store.record(record(1, None)).await.unwrap();
    store.record(record_of("p", StoredTurn { expires_at: Some(after(10)), ..turn(2, None) })).await.unwrap();
    let ids = [item("msg_1"), item("msg_2"), ItemId::derived(id(1), 0), ItemId::derived(id(2), 0)];
    let are_found = async |seconds| {
        let loaded = store.load_items(&project("p"), &ids, after(seconds)).await.unwrap();
        loaded.iter().map(Option::is_some).collect::<Vec<_>>()
    };
    assert_eq!(are_found(9).await, [true; 4]);
    assert_eq!(are_found(10).await, [true, false, true, false]);
    assert!(store.delete(&project("p"), id(1), NOW).await.unwrap());
    assert_eq!(are_found(9).await, [false, true, false, true]);
}

pub(crate) async fn many_items_come_in_the_order_asked_for(fixture: impl Fixture) {
    let store = fixture.open().await;
    record_all(&store, (0..300).map(|n| record(n, None)).collect()).await;
    let ids: Vec<ItemId> = (0..300).rev().chain([7, 7]).map(|n| item(&format!("msg_{n}"))).collect();
    let loaded = store.load_items(&project("p"), &ids, NOW).await.unwrap();
    for (id, item) in ids.iter().zip(loaded) {
        assert_eq!(antiphon_protocol::item::id(&item.unwrap().item).as_ref(), Some(id));
    }
}

pub(crate) async fn projects_do_not_see_each_others_items(fixture: impl Fixture) {
    let store = fixture.open().await;
    store.record(record(1, None)).await.unwrap();
    let ids = [item("msg_1"), ItemId::derived(id(1), 0)];
    assert_eq!(store.load_items(&project("q"), &ids, NOW).await.unwrap(), [None, None]);
    let other = StoredTurn { output: r#"[{"id":"msg_1","of":"q"}]"#.into(), ..turn(1, None) };
    store.record(record_of("q", other)).await.unwrap();
    let load = async |name| store.load_items(&project(name), &ids[..1], NOW).await.unwrap();
    assert_eq!(load("p").await, [found(r#"{"id":"msg_1","type":"message","n":1}"#, true)]);
    assert_eq!(load("q").await, [found(r#"{"id":"msg_1","of":"q"}"#, true)]);
}
