//! An item is found by its id, wherever it was recorded last.

use std::sync::Arc;

use antiphon_protocol::id::ItemId;
use antiphon_store::{FoundItems, IndexedItem, Maker, Store, StoredTurn, Timestamp};

use crate::fixture::{Fixture, NOW, after, id, project, record, record_all, record_of, turn};

fn item(name: &str) -> ItemId {
    ItemId::new(name).unwrap()
}

/// The items with these ids, however large they are.
pub(crate) async fn load(
    store: &impl AsRef<dyn Store>,
    of: &str,
    ids: &[ItemId],
    now: Timestamp,
) -> Vec<Option<IndexedItem>> {
    match store.as_ref().load_items(&project(of), ids, now, usize::MAX).await.unwrap() {
        FoundItems::All(items) => items,
        too_large @ FoundItems::TooLarge { .. } => panic!("{too_large:?}"),
    }
}

fn found(json: &'static str, is_output: bool) -> Option<IndexedItem> {
    let maker = Maker { account: "a".into(), boundary: "b".into() };
    let maker = is_output.then(|| Arc::new(maker));
    Some(IndexedItem { item: json.into(), is_output, expires_at: None, maker })
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
    assert_eq!(load(&store, "p", &ids, NOW).await, expected);
    assert_eq!(load(&store, "p", &[], NOW).await, []);
}

pub(crate) async fn the_newest_recording_of_an_item_wins(fixture: impl Fixture) {
    let store = fixture.open().await;
    let with = |n, input: &'static str| record_of("p", StoredTurn { input: input.into(), ..turn(n, None) });
    store.record(with(1, r#"[{"id":"i","n":1}]"#)).await.unwrap();
    store.record(with(2, r#"[0,{"id":"i","n":2}]"#)).await.unwrap();
    let found_now = async || load(&store, "p", &[item("i")], NOW).await;
    assert_eq!(found_now().await, [found(r#"{"id":"i","n":2}"#, false)]);
    store.record(with(3, r#"[{"id":"i","n":3},{"id":"i","n":4}]"#)).await.unwrap();
    assert_eq!(found_now().await, [found(r#"{"id":"i","n":4}"#, false)]);
}

pub(crate) async fn a_copy_of_an_output_item_is_still_an_upstreams(fixture: impl Fixture) {
    let store = fixture.open().await;
    let copied = StoredTurn {
        input: r#"[{"id":"own"},{"id":"copied"},{"id":"last"}]"#.into(),
        referenced: vec![1],
        expires_at: Some(after(10)),
        ..turn(1, None)
    };
    store.record(record_of("p", copied)).await.unwrap();
    let loaded = load(&store, "p", &["own", "copied", "last", "msg_1"].map(item), NOW).await;
    let are_upstreams: Vec<bool> = loaded.iter().flatten().map(|found| found.is_output).collect();
    assert_eq!(are_upstreams, [false, true, false, true]);
    let have_makers: Vec<bool> = loaded.iter().flatten().map(|found| found.maker.is_some()).collect();
    assert_eq!(have_makers, [false, false, false, true]);
    assert!(loaded.iter().flatten().all(|found| found.expires_at == Some(after(10))));
}

pub(crate) async fn a_derived_id_finds_an_input_item(fixture: impl Fixture) {
    let store = fixture.open().await;
    store.record(record(1, None)).await.unwrap();
    let ids = [
        ItemId::derived("msg_", id(1), 0),
        // An output item has no derived id, and there is no third item.
        ItemId::derived("msg_", id(1), 1),
        ItemId::derived("msg_", id(1), u32::MAX),
        ItemId::derived("msg_", id(2), 0),
    ];
    let loaded = load(&store, "p", &ids, NOW).await;
    assert_eq!(loaded, [found(r#"{"role":"user","content":"1"}"#, false), None, None, None]);
    // A client that sends an item with such an id has recorded it under it.
    let own = format!(r#"[{{"id":"{}","n":1}}]"#, ids[0]);
    store.record(record_of("p", StoredTurn { input: own.clone().into(), ..turn(3, None) })).await.unwrap();
    let loaded = load(&store, "p", &ids[..1], NOW).await;
    assert_eq!(loaded[0].as_ref().unwrap().item, &own[1..own.len() - 1]);
}

pub(crate) async fn items_of_hidden_responses_are_not_found(fixture: impl Fixture) {
    let store = fixture.open().await;
    store.record(record(1, None)).await.unwrap();
    store.record(record_of("p", StoredTurn { expires_at: Some(after(10)), ..turn(2, None) })).await.unwrap();
    let ids =
        [item("msg_1"), item("msg_2"), ItemId::derived("msg_", id(1), 0), ItemId::derived("msg_", id(2), 0)];
    let are_found = async |seconds| {
        let loaded = load(&store, "p", &ids, after(seconds)).await;
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
    let loaded = load(&store, "p", &ids, NOW).await;
    for (id, item) in ids.iter().zip(loaded) {
        assert_eq!(antiphon_protocol::item::id(&item.unwrap().item).as_ref(), Some(id));
    }
}

pub(crate) async fn items_of_many_large_responses_are_found(fixture: impl Fixture) {
    let store = fixture.open().await;
    let large = |n: u32| {
        let output = format!(r#"[{{"id":"msg_{n}"}},{{"id":"l_{n}","x":"{}"}}]"#, "x".repeat(3 << 20));
        record_of("p", StoredTurn { output: output.into(), ..turn(n.into(), None) })
    };
    record_all(&store, (0..5).map(large).collect()).await;
    let ids = ["msg_4", "msg_0", "unknown", "msg_3", "msg_1", "msg_2"].map(item);
    let sizes: Vec<_> = load(&store, "p", &ids, NOW)
        .await
        .iter()
        .map(|found| found.as_ref().map(|found| found.item.len()))
        .collect();
    let small = Some(r#"{"id":"msg_0"}"#.len());
    assert_eq!(sizes, [small, small, None, small, small, small]);
    let ids = ["l_0", "l_1", "l_2", "l_3"].map(item);
    let found = store.load_items(&project("p"), &ids, NOW, 7 << 20).await.unwrap();
    assert!(matches!(found, FoundItems::TooLarge { .. }), "{found:?}");
}

pub(crate) async fn projects_do_not_see_each_others_items(fixture: impl Fixture) {
    let store = fixture.open().await;
    store.record(record(1, None)).await.unwrap();
    let ids = [item("msg_1"), ItemId::derived("msg_", id(1), 0)];
    assert_eq!(load(&store, "q", &ids, NOW).await, [None, None]);
    let other = StoredTurn { output: r#"[{"id":"msg_1","of":"q"}]"#.into(), ..turn(1, None) };
    store.record(record_of("q", other)).await.unwrap();
    let of = async |name| load(&store, name, &ids[..1], NOW).await;
    assert_eq!(of("p").await, [found(r#"{"id":"msg_1","type":"message","n":1}"#, true)]);
    assert_eq!(of("q").await, [found(r#"{"id":"msg_1","of":"q"}"#, true)]);
}

pub(crate) async fn items_are_loaded_only_if_all_of_them_together_are_small_enough(fixture: impl Fixture) {
    let store = fixture.open().await;
    let large = format!(r#"[{{"id":"a","x":"{}"}},{{"id":"b"}}]"#, "x".repeat(1000));
    store.record(record_of("p", StoredTurn { input: large.into(), ..turn(1, None) })).await.unwrap();
    store.record(record(2, None)).await.unwrap();
    let ids = ["msg_2", "a", "b", "a", "unknown"].map(item);
    let all = load(&store, "p", &ids, NOW).await;
    let size: usize = all.iter().flatten().map(|found| found.item.len()).sum();
    let within = async |max_bytes| store.load_items(&project("p"), &ids, NOW, max_bytes).await.unwrap();
    assert_eq!(within(size).await, FoundItems::All(all.clone()));
    let [Some(first), Some(second)] = [&all[1], &all[3]] else { panic!("{all:?}") };
    assert_eq!(first.item.as_ptr(), second.item.as_ptr(), "there is one copy of it");
    for max_bytes in [size - 1, 1500, 0] {
        let FoundItems::TooLarge { size_bytes } = within(max_bytes).await else { panic!("{max_bytes}") };
        assert!(size_bytes > max_bytes && size_bytes <= size, "{size_bytes} of {size}");
    }
}
