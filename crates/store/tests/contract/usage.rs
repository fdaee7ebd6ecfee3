//! Usage: the same figures wherever the rows are.

use std::collections::BTreeMap;
use std::sync::Arc;

use antiphon_protocol::id::ProjectId;
use antiphon_store::{
    DAY_MS, HOUR_MS, LogRow, PurgeProgress, Record, Span, Store, StoredTurn, Timestamp, Totals, UsageGroup,
    UsageQuery,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::Handle;

use crate::fixture::{Fixture, id, log_row, record_all, record_of, turn};

/// The beginning of a day.
const DAY: i64 = 20_000 * DAY_MS;

fn at(hours: i64, ms: i64) -> Timestamp {
    Timestamp::from_unix_ms(DAY + hours * HOUR_MS + ms)
}

fn everything() -> UsageQuery {
    let (from, to) = (Timestamp::from_unix_ms(0), Timestamp::from_unix_ms(i64::MAX));
    UsageQuery { from, to, max_groups: 10_000, ..UsageQuery::default() }
}

/// Writes rows with their turns: of rows that are appended alone nobody hears when the store has noted them.
async fn write(store: &Arc<dyn Store>, rows: impl IntoIterator<Item = LogRow>) {
    let record = |log: LogRow| {
        let turn = StoredTurn { id: log.response, output: "[]".into(), ..turn(0, None) };
        Record { log: log.clone(), ..record_of(log.project.as_str(), turn) }
    };
    record_all(store, rows.into_iter().map(record).collect()).await;
}

/// Rolls up all hours from `from` to `until`. Returns how many there were.
async fn roll_up(store: &Arc<dyn Store>, from: Timestamp, until: Timestamp) -> u32 {
    let (mut from, mut hours) = (from, 0);
    while let Some(next) = store.roll_up_hour(from, until).await.unwrap() {
        (from, hours) = (next, hours + 1);
    }
    hours
}

async fn only_group(store: &Arc<dyn Store>) -> Totals {
    let groups = store.list_usage(everything()).await.unwrap();
    assert_eq!(groups.len(), 1, "{groups:?}");
    groups[0].1
}

pub(crate) async fn written_rows_count_at_once(fixture: impl Fixture) {
    let store = fixture.open().await;
    assert_eq!(store.list_usage(everything()).await.unwrap(), []);
    store.record(record_of("p", turn(1, None))).await.unwrap();
    let expected = Totals {
        turns: 1,
        failed_turns: 0,
        unpriced_turns: 0,
        estimated_turns: 0,
        input_tokens: 11,
        cached_tokens: 7,
        output_tokens: 5,
        reasoning_tokens: u64::from(u32::MAX) + 1,
        cost_nano_usd: 1_234,
    };
    assert_eq!(only_group(&store).await, expected);
    let mut refused = log_row("p", id(2), at(0, 0));
    (refused.outcome, refused.cost_nano_usd) = ("refused".into(), None);
    let free = LogRow { input_tokens: 0, output_tokens: 0, response: id(3), ..refused.clone() };
    write(&store, [refused, free]).await;
    let totals = only_group(&store).await;
    assert_eq!((totals.turns, totals.failed_turns, totals.unpriced_turns), (3, 2, 1));
}

pub(crate) async fn counts_of_any_size_can_be_rolled_up(fixture: impl Fixture) {
    let store = fixture.open().await;
    let huge =
        |n| LogRow { input_tokens: u64::MAX, cost_nano_usd: Some(u64::MAX), ..log_row("p", id(n), at(0, 0)) };
    write(&store, (0..100).map(huge)).await;
    assert_eq!(only_group(&store).await.input_tokens, 100_000_000_000_000);
    assert_eq!(roll_up(&store, at(0, 0), at(1, 0)).await, 1);
    assert!(only_group(&store).await.cost_nano_usd > 10_u64.pow(15));
}

pub(crate) async fn a_late_row_counts_once_its_hour_is_rolled_up_again(fixture: impl Fixture) {
    let store = fixture.open().await;
    assert_eq!(store.take_earliest_written(), None);
    write(&store, (0..5).map(|n| log_row("p", id(n), at(n.cast_signed(), 5)))).await;
    assert_eq!(store.take_earliest_written(), Some(at(0, 5)));
    assert_eq!(store.rolled_up_until().await.unwrap(), Timestamp::from_unix_ms(0));
    assert_eq!(roll_up(&store, Timestamp::from_unix_ms(0), at(3, 0)).await, 3);
    assert_eq!(store.rolled_up_until().await.unwrap(), at(3, 0));
    assert_eq!(only_group(&store).await.turns, 5);
    write(&store, [log_row("p", id(10), at(1, 0)), log_row("p", id(11), at(3, 0))]).await;
    assert_eq!(only_group(&store).await.turns, 6);
    assert_eq!(store.take_earliest_written(), Some(at(1, 0)));
    assert_eq!(roll_up(&store, at(1, 0), at(3, 0)).await, 2);
    assert_eq!(only_group(&store).await.turns, 7);
    assert_eq!(roll_up(&store, at(0, 0), at(3, 0)).await, 3, "again");
    assert_eq!(only_group(&store).await.turns, 7);
}

/// A purge removes the oldest rows, a few at a time. Late rows may come in between.
pub(crate) async fn purged_rows_still_count(fixture: impl Fixture) {
    let store = fixture.open().await;
    write(&store, (0..10).map(|n| log_row("p", id(n), at(0, n.cast_signed())))).await;
    roll_up(&store, at(0, 0), at(1, 0)).await;
    let purge = async || {
        store.purge(&mut PurgeProgress::default(), at(0, 0), Some(at(2, 0)), 3).await.unwrap().log_rows
    };
    assert_eq!(purge().await, 3);
    assert_eq!(only_group(&store).await.turns, 10);
    write(&store, [log_row("p", id(20), at(0, 1)), log_row("p", id(21), at(0, 8))]).await;
    assert_eq!(only_group(&store).await.turns, 12);
    while purge().await > 0 {
        assert_eq!(only_group(&store).await.turns, 12);
        roll_up(&store, at(0, 0), at(1, 0)).await;
    }
    assert_eq!(store.list_log(10).await.unwrap(), []);
    assert_eq!(only_group(&store).await.turns, 12);
    write(&store, [log_row("p", id(22), at(-50, 0))]).await;
    assert_eq!(only_group(&store).await.turns, 13);
    assert_eq!(purge().await, 1);
    assert_eq!(only_group(&store).await.turns, 13);
}

/// Daily sums are kept longer than hourly ones.
pub(crate) async fn old_sums_are_purged(fixture: impl Fixture) {
    let store = fixture.open().await;
    write(&store, (0..72).map(|n| log_row("p", id(n), at(n.cast_signed(), 0)))).await;
    while store.purge(&mut PurgeProgress::default(), at(0, 0), Some(at(60, 0)), 100).await.unwrap().log_rows
        > 0
    {}
    while store.purge_usage(Some(at(36, 0)), Some(at(24, 0)), 5).await.unwrap() {}
    let hours = UsageQuery { span: Span::Hour, ..everything() };
    let groups = async |query: UsageQuery| store.list_usage(query).await.unwrap().len();
    assert_eq!(groups(hours.clone()).await, 36);
    let days = store.list_usage(UsageQuery { span: Span::Day, ..everything() }).await.unwrap();
    assert_eq!(days.iter().map(|(_, totals)| totals.turns).collect::<Vec<_>>(), [24, 24]);
    while store.purge_usage(Some(at(1_000, 0)), None, 1_000).await.unwrap() {}
    assert_eq!(groups(hours).await, 13, "the newest stays, and so does what is in the log");
}

pub(crate) async fn groups_come_in_order_and_in_pages(fixture: impl Fixture) {
    let store = fixture.open().await;
    let projects = ["ü", "p", "Z", "a b"];
    let rows = (0..40).map(|n| {
        let project = projects[usize::try_from(n).unwrap() % 4];
        LogRow { project: ProjectId::new(project), ..log_row(project, id(n), at(n.cast_signed() % 3, 0)) }
    });
    write(&store, rows).await;
    let query = UsageQuery { span: Span::Hour, by_project: true, ..everything() };
    let all = store.list_usage(query.clone()).await.unwrap();
    assert_eq!((all.len(), all.is_sorted_by_key(|(group, _)| group.clone())), (12, true));
    let (mut pages, mut after) = (Vec::new(), None);
    loop {
        let page = store.list_usage(UsageQuery { after, max_groups: 5, ..query.clone() }).await.unwrap();
        after = page.last().map(|(group, _)| group.clone());
        if page.is_empty() {
            break;
        }
        pages.extend(page);
    }
    assert_eq!(pages, all);
    let one = UsageGroup { project: Some("ü".into()), ..UsageGroup::default() };
    let groups = store.list_usage(UsageQuery { only: one, ..everything() }).await.unwrap();
    assert_eq!(groups[0].1.turns, 10);
}

#[derive(Debug, Clone)]
enum Step {
    Write(Vec<Row>),
    /// Rolls up what was written since the last time, up to this hour; or hours from this one on, then the ones before.
    SumUp(i64),
    Again(i64, i64),
    Purge(i64, u32),
}

#[derive(Debug, Clone)]
struct Row {
    hour: i64,
    names: [u8; 4],
    outcome: u8,
    tokens: u16,
    cost: Option<u16>,
}

const HOURS: i64 = 80;

fn step() -> impl Strategy<Value = Step> {
    let row = (0..HOURS, any::<[u8; 4]>(), 0..5_u8, 0..1_000_u16, any::<Option<u16>>()).prop_map(
        |(hour, names, outcome, tokens, cost)| Row {
            hour,
            names: names.map(|name| name % 3),
            outcome,
            tokens,
            cost,
        },
    );
    prop_oneof![
        4 => vec(row, 1..12).prop_map(Step::Write),
        2 => (0..HOURS).prop_map(Step::SumUp),
        1 => (0..HOURS, 0..HOURS).prop_map(|(from, until)| Step::Again(from, until)),
        2 => (0..HOURS, 1..9_u32).prop_map(|(before, rows)| Step::Purge(before, rows)),
    ]
}

fn log_of(n: u64, row: &Row) -> LogRow {
    let [project, key, account, model] = row.names;
    let outcomes = ["completed", "failed", "refused", "cancelled", "lost"];
    LogRow {
        key: (key > 0).then(|| format!("k{key}")),
        account: (account > 0).then(|| format!("a{account}")),
        model: format!("m{model}"),
        outcome: outcomes[usize::from(row.outcome)].into(),
        input_tokens: row.tokens.into(),
        output_tokens: 0,
        cost_nano_usd: row.cost.map(u64::from),
        is_estimated: row.tokens % 3 == 1,
        ..log_row(&format!("p{project}"), id(n), at(row.hour, i64::from(row.tokens) * 3_000))
    }
}

fn add(totals: &mut Totals, row: &LogRow) {
    totals.turns += 1;
    totals.failed_turns += u64::from(["failed", "refused", "lost"].contains(&&*row.outcome));
    totals.unpriced_turns += u64::from(row.cost_nano_usd.is_none() && row.input_tokens > 0);
    totals.estimated_turns += u64::from(row.is_estimated);
    totals.input_tokens += row.input_tokens;
    totals.cached_tokens += row.cached_tokens;
    totals.output_tokens += row.output_tokens;
    totals.reasoning_tokens += row.reasoning_tokens;
    totals.cost_nano_usd += row.cost_nano_usd.unwrap_or(0);
}

fn expected(rows: &[LogRow], query: &UsageQuery) -> Vec<(UsageGroup, Totals)> {
    let mut groups: BTreeMap<UsageGroup, Totals> = BTreeMap::new();
    for row in rows.iter().filter(|row| query.from <= row.at && row.at < query.to) {
        let unit = match query.span {
            Span::All => None,
            Span::Day => Some(DAY_MS),
            Span::Hour => Some(HOUR_MS),
        };
        let ms = row.at.unix_ms();
        let by = |is_set: bool, name: Option<&str>| name.filter(|_| is_set).map(str::to_owned);
        let group = UsageGroup {
            starts_at: unit.map(|unit| Timestamp::from_unix_ms(ms - ms % unit)),
            project: by(query.by_project, Some(row.project.as_str())),
            key: by(query.by_key, row.key.as_deref()),
            account: by(query.by_account, row.account.as_deref()),
            model: by(query.by_model && row.account.is_some(), Some(&row.model)),
        };
        add(groups.entry(group).or_default(), row);
    }
    groups.into_iter().collect()
}

/// Every grouping by time, and several by the rest, over several ranges.
async fn compare(store: &Arc<dyn Store>, rows: &[LogRow]) -> Result<(), TestCaseError> {
    for (n, span) in [Span::All, Span::Day, Span::Hour].into_iter().enumerate() {
        for (from, to) in [(0, HOURS), (5, 77), (30, 40), (24, 48)] {
            let flags = usize::try_from(from).unwrap() + 5 * n;
            let flag = |bit: usize| flags & (1 << bit) != 0;
            let query = UsageQuery {
                from: at(from, 0),
                to: at(to, 0),
                span,
                by_project: flag(0),
                by_key: flag(1),
                by_account: flag(2),
                by_model: flag(3),
                max_groups: 10_000,
                ..UsageQuery::default()
            };
            let groups = store.list_usage(query.clone()).await.unwrap();
            prop_assert_eq!(groups, expected(rows, &query), "{:?}", query);
        }
    }
    Ok(())
}

pub(crate) async fn random_rows_in_random_order_count_once<F: Fixture>(_: F) {
    let runtime = Handle::current();
    tokio::task::block_in_place(|| {
        let config = Config { cases: 16, failure_persistence: None, ..Config::default() };
        TestRunner::new(config)
            .run(&vec(step(), 1..14), |steps| {
                runtime.block_on(async {
                    let fixture = F::new();
                    let store = fixture.open().await;
                    let result = run(&store, steps).await;
                    store.close().await;
                    result
                })
            })
            .unwrap();
    });
}

async fn run(store: &Arc<dyn Store>, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let (mut rows, mut since) = (Vec::new(), at(0, 0));
    for step in steps {
        match step {
            Step::Write(new) => {
                let first = rows.len();
                rows.extend((first..).zip(&new).map(|(n, row)| log_of(n as u64, row)));
                write(store, rows[first..].iter().cloned()).await;
            }
            Step::SumUp(until) => {
                since = since.min(store.take_earliest_written().unwrap_or(since));
                roll_up(store, since, at(until, 0)).await;
            }
            Step::Again(from, until) => {
                // No hour in between may be skipped.
                let end = store.rolled_up_until().await.unwrap();
                roll_up(store, end.min(at(from, 0)), at(until, 0)).await;
            }
            Step::Purge(before, max_rows) => {
                store
                    .purge(&mut PurgeProgress::default(), at(0, 0), Some(at(before, 0)), max_rows)
                    .await
                    .unwrap();
            }
        }
        // Late rows count once their hours are rolled up again.
        since = since.min(store.take_earliest_written().unwrap_or(since));
        let end = store.rolled_up_until().await.unwrap();
        roll_up(store, since, end).await;
        since = end;
        compare(store, &rows).await?;
    }
    Ok(())
}
