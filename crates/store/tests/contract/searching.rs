//! Searches of the request log, and what operators look at.

use std::sync::Arc;

use antiphon_store::{HOUR_MS, LogPosition, LogQuery, LogRow, Store, Timestamp};

use crate::fixture::{
    Fixture, NOW, after, append_all, id, log_row, project, record, record_all, record_chain, record_of, turn,
};

/// All pages of a search, and how many rows each has.
async fn search(store: &Arc<dyn Store>, query: LogQuery) -> (Vec<LogRow>, Vec<usize>) {
    let (mut rows, mut sizes, mut after) = (Vec::new(), Vec::new(), query.after);
    loop {
        let page = store.search_log(LogQuery { after, ..query.clone() }).await.unwrap();
        sizes.push(page.rows.len());
        rows.extend(page.rows);
        after = page.next;
        if after.is_none() {
            return (rows, sizes);
        }
    }
}

fn numbers(rows: &[LogRow]) -> Vec<u64> {
    rows.iter().map(|row| row.at.since(NOW).as_secs()).collect()
}

/// Twelve rows, a second apart.
fn rows() -> Vec<LogRow> {
    let row = |n: u64| {
        let bare = log_row("p", id(n), after(n));
        match n % 4 {
            0 => LogRow { model: "rare".into(), ..bare },
            1 => LogRow { outcome: "failed".into(), code: Some("server_error".into()), ..bare },
            2 => LogRow { key: Some("other".into()), account: Some("second".into()), ..bare },
            _ => LogRow { project: project("q"), ..bare },
        }
    };
    (0..12).map(row).collect()
}

pub(crate) async fn a_search_finds_what_was_asked_for_newest_first(fixture: impl Fixture) {
    let store = fixture.open().await;
    append_all(&store, rows()).await;
    let text = |text: &str| Some(text.to_owned());
    let any = LogQuery { max_rows: 100, ..LogQuery::default() };
    for (query, expected) in [
        (LogQuery { model: text("rare"), ..any.clone() }, vec![8, 4, 0]),
        (LogQuery { outcome: text("failed"), ..any.clone() }, vec![9, 5, 1]),
        (LogQuery { code: text("server_error"), ..any.clone() }, vec![9, 5, 1]),
        (LogQuery { code: text("server_error"), outcome: text("completed"), ..any.clone() }, vec![]),
        (LogQuery { key: text("other"), account: text("second"), ..any.clone() }, vec![10, 6, 2]),
        (LogQuery { key: text("other"), model: text("rare"), ..any.clone() }, vec![]),
        (LogQuery { project: text("q"), ..any.clone() }, vec![11, 7, 3]),
        (LogQuery { outcome: text("completed"), since: Some(after(9)), ..any.clone() }, vec![11, 10]),
        (LogQuery { since: Some(after(3)), until: Some(after(5)), ..any.clone() }, vec![4, 3]),
    ] {
        assert_eq!(numbers(&search(&store, query.clone()).await.0), expected, "{query:?}");
        let paged = LogQuery { max_rows: 2, ..query.clone() };
        assert_eq!(numbers(&search(&store, paged).await.0), expected, "{query:?}");
    }
    let all = search(&store, LogQuery { max_rows: 5, ..LogQuery::default() }).await;
    assert_eq!(numbers(&all.0), (0..12).rev().collect::<Vec<_>>());
    assert_eq!(all.1, [5, 5, 2]);
    let page = store.search_log(LogQuery { max_rows: 1, ..LogQuery::default() }).await.unwrap();
    assert_eq!(page.next, Some(LogPosition::after(&page.rows[0])));
}

/// A row of another key among many rows, hours ago.
pub(crate) async fn a_search_skips_hours_without_such_turns(fixture: impl Fixture) {
    let store = fixture.open().await;
    let hour = NOW.unix_ms() - NOW.unix_ms() % HOUR_MS;
    let at = |hours: i64, ms: i64| Timestamp::from_unix_ms(hour - hours * HOUR_MS + ms);
    let rare = |hours: i64| LogRow {
        key: Some("rare".into()),
        ..log_row("p", id(1_000_000 + hours.unsigned_abs()), at(hours, 5))
    };
    append_all(&store, [rare(9), rare(3), rare(0)]).await;
    let mut from = at(20, 0);
    while let Some(next) = store.roll_up_hour(from, at(0, 0)).await.unwrap() {
        from = next;
    }
    let query = LogQuery { key: Some("rare".into()), max_rows: 100, ..LogQuery::default() };
    let found = search(&store, query).await.0;
    assert_eq!(found.iter().map(|row| row.at).collect::<Vec<_>>(), [at(0, 5), at(3, 5), at(9, 5)]);
}

pub(crate) async fn operators_see_turns_of_every_project(fixture: impl Fixture) {
    let store = fixture.open().await;
    record_chain(&store, 1, 4, None).await;
    record_all(&store, [(5, 2), (6, 2), (7, 5)].map(|(n, parent)| record(n, Some((parent, 2)))).into()).await;
    let other = record_of("q", turn(9, None));
    store.record(other.clone()).await.unwrap();
    assert_eq!(store.find_project(id(2)).await.unwrap(), Some(project("p")));
    assert_eq!(store.find_project(id(9)).await.unwrap(), Some(project("q")));
    assert_eq!(store.find_project(id(8)).await.unwrap(), None);
    let turns = store.list_turns(&project("p"), id(4), 3).await.unwrap();
    assert_eq!(turns.iter().map(|turn| turn.id).collect::<Vec<_>>(), [id(4), id(3), id(2)]);
    let links = store.list_links(&project("p"), id(4), 100).await.unwrap();
    assert_eq!(links.iter().map(|link| link.id).collect::<Vec<_>>(), [4, 3, 2, 1].map(id));
    assert!(turns.iter().zip(&links).all(|(turn, link)| turn.input_bytes + turn.output_bytes == link.bytes));
    let line = store.list_descendants(&project("p"), id(1), 100).await.unwrap();
    assert_eq!(line.iter().map(|link| link.id).collect::<Vec<_>>(), [2, 6].map(id), "the newest child");
    let line = store.list_descendants(&project("p"), id(3), 100).await.unwrap();
    assert_eq!(line.iter().map(|link| link.id).collect::<Vec<_>>(), [4].map(id));
    assert!(store.list_descendants(&project("p"), id(4), 100).await.unwrap().is_empty());
    let mut children = store.list_children(&project("p"), id(4), 3, 100).await.unwrap();
    children.sort();
    assert_eq!(children, [(2, 3), (2, 5), (2, 6), (3, 4)].map(|(parent, child)| (id(parent), id(child))));
    assert_eq!(store.list_children(&project("p"), id(4), 3, 2).await.unwrap().len(), 2);
    assert!(store.list_turns(&project("q"), id(4), 3).await.unwrap().is_empty());
}
