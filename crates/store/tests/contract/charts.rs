//! Sums for charts: the same figures wherever the rows are.

use std::sync::Arc;
use std::time::Duration;

use antiphon_store::{
    AccountSum, DAY_MS, HOUR_MS, Latency, LatencySum, LogRow, OutcomeSum, OverviewQuery, PurgeProgress,
    Store, Timestamp,
};

use crate::fixture::{Fixture, append_all, id, log_row};

/// The beginning of a day.
const DAY: i64 = 20_000 * DAY_MS;

fn at(hours: i64, ms: i64) -> Timestamp {
    Timestamp::from_unix_ms(DAY + hours * HOUR_MS + ms)
}

fn every(interval_ms: i64) -> OverviewQuery {
    OverviewQuery { from: at(-24, 0), to: at(48, 0), interval_ms }
}

/// Rows of three hours: each with a slow and a fast turn that were served by different accounts, and one that was refused.
/// One of the slow ones failed.
fn rows() -> Vec<LogRow> {
    let row = |n: i64| {
        let hour = n / 3;
        let bare = log_row("p", id(n.unsigned_abs()), at(hour, n));
        match n % 3 {
            0 => LogRow { outcome: "refused".into(), account: None, ..bare },
            kind => LogRow {
                account: Some(if kind == 1 { "a" } else { "b" }.into()),
                first_event: Some(Duration::from_millis(if kind == 1 { 40 } else { 400 })),
                duration: Duration::from_secs(if kind == 1 { 1 } else { 60 }),
                outcome: if n == 5 { "failed" } else { "completed" }.into(),
                ..bare
            },
        }
    };
    (0..9).map(row).collect()
}

type Figures = (Vec<OutcomeSum>, Vec<LatencySum>, Vec<AccountSum>);

async fn figures(store: &Arc<dyn Store>, query: OverviewQuery) -> Figures {
    let outcomes = store.list_outcomes(query).await.unwrap();
    let latencies = store.list_latencies(query).await.unwrap();
    (outcomes, latencies, store.list_account_sums(query).await.unwrap())
}

async fn roll_up(store: &Arc<dyn Store>, until: Timestamp) {
    let mut from = at(0, 0);
    while let Some(next) = store.roll_up_hour(from, until).await.unwrap() {
        from = next;
    }
}

pub(crate) async fn charts_show_the_same_before_and_after_rolling_up_and_purging(fixture: impl Fixture) {
    let store = fixture.open().await;
    append_all(&store, rows()).await;
    let (hourly, daily) = (figures(&store, every(HOUR_MS)).await, figures(&store, every(DAY_MS)).await);
    let turns = |sums: &[OutcomeSum], outcome: &str| -> Vec<(i64, u64)> {
        let of_outcome = sums.iter().filter(|sum| sum.outcome == outcome);
        of_outcome.map(|sum| ((sum.starts_at.unix_ms() - DAY) / HOUR_MS, sum.turns)).collect()
    };
    assert_eq!(turns(&hourly.0, "completed"), [(0, 2), (1, 1), (2, 2)]);
    assert_eq!(turns(&hourly.0, "refused"), [(0, 1), (1, 1), (2, 1)]);
    assert_eq!((turns(&daily.0, "completed"), turns(&daily.0, "refused")), (vec![(0, 5)], vec![(0, 3)]));
    assert!(hourly.0.iter().all(|sum| sum.model.is_empty() == (sum.outcome == "refused")));
    let buckets: Vec<_> = daily.1.iter().map(|sum| (sum.latency, sum.up_to_us, sum.turns)).collect();
    assert_eq!(
        buckets,
        [
            (Latency::FirstEvent, 50_000, 3),
            (Latency::FirstEvent, 500_000, 3),
            (Latency::Duration, 1_000_000, 3),
            (Latency::Duration, 70_000_000, 3),
        ]
    );
    let accounts: Vec<_> =
        daily.2.iter().map(|sum| (sum.account.as_str(), sum.turns, sum.failed_turns)).collect();
    assert_eq!(accounts, [("a", 3, 0), ("b", 3, 1)]);
    assert_eq!(hourly.2.len(), 6, "{:?}", hourly.2);
    roll_up(&store, at(2, 0)).await;
    assert_eq!(figures(&store, every(HOUR_MS)).await, hourly);
    // In the middle of an hour that is not rolled up yet, and of one that is.
    for before in [at(0, 2), at(1, 4), at(2, 8)] {
        store.purge(&mut PurgeProgress::default(), at(0, 0), Some(before), 100).await.unwrap();
        assert_eq!(figures(&store, every(HOUR_MS)).await, hourly);
        assert_eq!(figures(&store, every(DAY_MS)).await, daily);
    }
    store.purge_usage(Some(at(2, 0)), None, 100).await.unwrap();
    assert_eq!(turns(&figures(&store, every(HOUR_MS)).await.0, "completed"), [(2, 2)]);
    assert_eq!(figures(&store, every(DAY_MS)).await, daily, "days are kept for longer");
}
