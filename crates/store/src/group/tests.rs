use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use antiphon_protocol::id::{ConversationId, ItemId, ProjectId, ResponseId};
use antiphon_testkit::eventually;
use bytes::Bytes;
use futures_util::FutureExt;

use super::writer::BATCH_OPERATIONS;
use super::*;
use crate::{
    Append, AppendedItem, ItemLocation, Record, Reservation, Settlement, Status, StoredResponse, StoredTurn,
};

/// Notes the batches that it gets, and runs the test's script on each.
struct Scripted<F> {
    commits: Arc<Mutex<Vec<usize>>>,
    script: F,
}

impl<F: FnMut(&[Operation]) -> Result<(), NotCommitted> + Send + 'static> Engine for Scripted<F> {
    async fn commit(&mut self, batch: &[Operation]) -> Result<Vec<Outcome>, NotCommitted> {
        self.commits.lock().unwrap().push(batch.len());
        // As slow as a disk, so that more operations queue up meanwhile.
        tokio::time::sleep(Duration::from_millis(20)).await;
        (self.script)(batch).map(|()| vec![Outcome::Done; batch.len()])
    }

    async fn gather(&mut self) {
        tokio::task::yield_now().await;
    }

    async fn close(&mut self) {
        self.commits.lock().unwrap().push(0);
    }
}

/// Counts concurrent commits and, at the end, closed engines.
struct Counted {
    began: Arc<AtomicUsize>,
    together: Arc<AtomicUsize>,
}

impl Engine for Counted {
    async fn commit(&mut self, batch: &[Operation]) -> Result<Vec<Outcome>, NotCommitted> {
        let now = self.began.fetch_add(1, Ordering::Relaxed) + 1;
        self.together.fetch_max(now, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.began.fetch_sub(1, Ordering::Relaxed);
        Ok(vec![Outcome::Done; batch.len()])
    }

    async fn gather(&mut self) {}

    async fn close(&mut self) {
        self.began.fetch_add(1, Ordering::Relaxed);
    }
}

fn start(
    commit_timeout: Duration,
    script: impl FnMut(&[Operation]) -> Result<(), NotCommitted> + Send + 'static,
) -> (Arc<Group>, Arc<Mutex<Vec<usize>>>) {
    let commits = Arc::<Mutex<Vec<usize>>>::default();
    let engine = Scripted { commits: Arc::clone(&commits), script };
    (Arc::new(Group::start_tasks([engine], commit_timeout)), commits)
}

async fn write_at_once(group: &Arc<Group>, writes: usize) -> Vec<Result<Outcome, StoreError>> {
    let writes = (0..writes).map(|_| group.write(Operation::Execute(Vec::new())));
    futures_util::future::join_all(writes).await
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn operations_that_wait_together_are_committed_together() {
    let (group, commits) = start(LONG, |_| Ok(()));
    let results = write_at_once(&group, 1_000).await;
    assert!(results.iter().all(|result| *result.as_ref().unwrap() == Outcome::Done));
    let commits = commits.lock().unwrap().clone();
    assert_eq!(commits.iter().sum::<usize>(), 1_000);
    assert!(commits.len() <= 6 && commits.iter().all(|&size| size <= BATCH_OPERATIONS), "{commits:?}");
}

#[tokio::test]
async fn several_engines_commit_at_once_and_all_are_closed() {
    let (began, together) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let engines = [(); 3].map(|()| Counted { began: Arc::clone(&began), together: Arc::clone(&together) });
    let group = Arc::new(Group::start_tasks(engines, LONG));
    let results = write_at_once(&group, 3_000).await;
    assert!(results.iter().all(Result::is_ok));
    assert!(together.load(Ordering::Relaxed) > 1);
    group.close().await;
    assert_eq!(began.load(Ordering::Relaxed), 3, "each engine was closed once");
    assert!(matches!(group.write(Operation::Execute(Vec::new())).await, Err(StoreError::Unavailable(_))));
}

#[tokio::test]
async fn an_engine_that_recovers_is_available_again() {
    let mut failures = 2;
    let (group, _) = start(LONG, move |_| {
        if failures == 0 {
            return Ok(());
        }
        failures -= 1;
        Err(NotCommitted::Unavailable("full".into()))
    });
    for _ in 0..2 {
        let results = write_at_once(&group, 3).await;
        assert!(results.iter().all(|result| matches!(result, Err(StoreError::Unavailable(_)))));
        assert!(!group.is_available());
    }
    group.write(Operation::Execute(Vec::new())).await.unwrap();
    assert!(group.is_available());
    assert_eq!(group.metrics.failures.get(), 2);
}

#[tokio::test]
async fn a_refused_batch_is_written_one_by_one() {
    let (group, _) = start(LONG, |batch| {
        let is_bad = batch.iter().any(|operation| matches!(operation, Operation::Purge(_)));
        if is_bad { Err(NotCommitted::Refused("no".into())) } else { Ok(()) }
    });
    let bad = || {
        let now = Timestamp::from_unix_ms(0);
        Operation::Purge(Box::new(PurgeStep { now, leaves: Vec::new(), log_before: None, max_rows: 1 }))
    };
    let writes =
        (0..20).map(|n| group.write(if n % 5 == 0 { bad() } else { Operation::Execute(Vec::new()) }));
    for (n, result) in futures_util::future::join_all(writes).await.into_iter().enumerate() {
        match result {
            Ok(_) => assert_ne!(n % 5, 0),
            Err(error) => assert!(n % 5 == 0 && matches!(error, StoreError::Refused(_)), "{error}"),
        }
    }
    assert!(group.is_available());
    assert_eq!(group.metrics.failures.get(), 0);
}

#[tokio::test]
async fn a_missing_right_fails_what_needs_it_and_nothing_else() {
    let (group, _) = start(LONG, |batch| {
        let is_forbidden =
            |operation: &Operation| matches!(operation, Operation::Post(_) | Operation::ExecuteSoon(_));
        if batch.iter().any(is_forbidden) { Err(NotCommitted::Forbidden("no".into())) } else { Ok(()) }
    });
    for _ in 0..2 {
        group.execute_unawaited(Statement::new("", Vec::new()));
        let posts = futures_util::future::join_all((0..3).map(|_| group.write(post(1))));
        let (forbidden, others) = tokio::join!(posts, write_at_once(&group, 3));
        assert!(forbidden.iter().all(|result| matches!(result, Err(StoreError::Unusable(_)))));
        assert!(others.iter().all(Result::is_ok));
        assert!(group.write(post(1)).await.is_err() && group.is_available());
    }
    let (group, _) = start(LONG, |_| Err(NotCommitted::Forbidden("no".into())));
    group.write(Operation::Settle(settlement(1))).await.unwrap_err();
    assert!(!group.is_available(), "every turn needs it");
}

#[tokio::test]
async fn a_deadline_makes_the_store_unavailable_until_a_write_succeeds() {
    let (group, _) = start(Duration::from_millis(5), |_| Ok(()));
    let result = group.write(Operation::Execute(Vec::new())).await;
    assert_eq!(result.unwrap_err().to_string(), "the store did not commit within 5ms");
    assert!(!group.is_available());
    eventually("the store is available", async || group.is_available()).await;
}

#[tokio::test]
async fn statements_whose_caller_is_gone_by_their_turn_are_not_run() {
    let (group, commits) = start(LONG, |_| Ok(()));
    // The engine is busy when they come.
    let busy = tokio::spawn({
        let group = Arc::clone(&group);
        async move { group.write(Operation::Execute(Vec::new())).await }
    });
    tokio::task::yield_now().await;
    let statements = write_at_once(&group, 3);
    assert!(tokio::time::timeout(Duration::ZERO, statements).await.is_err());
    busy.await.unwrap().unwrap();
    group.close().await;
    assert_eq!(commits.lock().unwrap().iter().sum::<usize>(), 1);
}

#[tokio::test]
async fn a_turn_of_a_conversation_whose_caller_was_told_of_a_failure_is_not_written() {
    for (append, committed) in [(None, 2), (Some(append_of(2)), 1)] {
        let (group, commits) = start(LONG, |_| Ok(()));
        // The engine is busy when it comes.
        let busy = tokio::spawn({
            let group = Arc::clone(&group);
            async move { group.write(Operation::Execute(Vec::new())).await }
        });
        tokio::task::yield_now().await;
        assert!(group.write(record(append)).now_or_never().is_none());
        busy.await.unwrap().unwrap();
        group.close().await;
        assert_eq!(commits.lock().unwrap().iter().sum::<usize>(), committed);
    }
}

#[tokio::test]
async fn a_writer_that_panics_fails_every_caller_at_once() {
    let (group, _) = start(LONG, |_| panic!("the engine is broken"));
    for _ in 0..2 {
        let results = tokio::time::timeout(LONG / 2, write_at_once(&group, 5)).await.unwrap();
        assert!(results.iter().all(|result| matches!(result, Err(StoreError::Unavailable(_)))));
        assert!(!group.is_available());
    }
    group.close().await;
}

#[tokio::test]
async fn closing_writes_what_is_queued_and_then_closes_the_engine() {
    let (group, commits) = start(LONG, |_| Ok(()));
    let writes = write_at_once(&group, 300);
    let (results, ()) = tokio::join!(writes, async {
        tokio::task::yield_now().await;
        group.close().await;
    });
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(commits.lock().unwrap().last(), Some(&0));
    assert!(matches!(group.write(Operation::Execute(Vec::new())).await, Err(StoreError::Unavailable(_))));
    assert!(!group.is_available());
}

fn row(n: u64) -> LogRow {
    LogRow::bare(Timestamp::from_unix_ms(i64::try_from(n).unwrap()), ResponseId::mint(n, &[0; 10]))
}

#[tokio::test]
async fn log_rows_wait_for_an_unavailable_store_and_only_those_over_the_bound_are_lost() {
    let is_away = Arc::new(AtomicBool::new(true));
    let written = Arc::new(AtomicUsize::new(0));
    let (away, rows) = (Arc::clone(&is_away), Arc::clone(&written));
    let (group, _) = start(LONG, move |batch| {
        if away.load(Ordering::Relaxed) {
            return Err(NotCommitted::Unavailable("away".into()));
        }
        let in_batch = batch.iter().filter(|operation| matches!(operation, Operation::Log(..))).count();
        rows.fetch_add(in_batch, Ordering::Relaxed);
        Ok(())
    });
    for n in 0..500 {
        group.append_log(row(n));
        if n % 100 == 0 {
            group.write(Operation::Execute(Vec::new())).await.unwrap_err();
        }
    }
    assert_eq!(group.lost_rows(), 0);
    is_away.store(false, Ordering::Relaxed);
    group.write(Operation::Execute(Vec::new())).await.unwrap();
    assert_eq!(written.load(Ordering::Relaxed), 500);

    is_away.store(true, Ordering::Relaxed);
    for n in 0..20_000 {
        group.append_log(row(n));
    }
    let lost = group.lost_rows();
    assert!(lost > 0 && lost < 20_000, "{lost}");
    // The store is still unavailable, so the rest is lost, too.
    group.close().await;
    assert_eq!((group.lost_rows(), written.load(Ordering::Relaxed)), (20_000, 500));
}

#[tokio::test]
async fn a_log_row_that_is_refused_is_lost_alone() {
    let (group, _) = start(LONG, |batch| {
        let is_bad = |operation: &Operation| matches!(operation, Operation::Log(row, _) if row.depth == 7);
        if batch.iter().any(is_bad) { Err(NotCommitted::Refused("no".into())) } else { Ok(()) }
    });
    for depth in [1, 7, 2] {
        group.append_log(LogRow { depth, ..row(u64::from(depth)) });
    }
    group.close().await;
    assert_eq!(group.lost_rows(), 1);
}

fn settlement(n: u64) -> Settlement {
    Settlement::release(ResponseId::mint(n, &[0; 10]))
}

/// Which reservations were settled, and whether with a row of the log.
type Settled = Arc<Mutex<Vec<(ResponseId, bool)>>>;

/// An engine that notes them.
fn start_settling(
    commit: impl Fn(&[Operation]) -> Result<(), NotCommitted> + Send + 'static,
) -> (Arc<Group>, Settled) {
    let settled = Settled::default();
    let noted = Arc::clone(&settled);
    let (group, _) = start(LONG, move |batch| {
        commit(batch)?;
        let with_row = |operation: &Operation| matches!(operation, Operation::Log(..));
        let in_batch =
            batch.iter().filter_map(|operation| Some((operation.settlement()?.id, with_row(operation))));
        noted.lock().unwrap().extend(in_batch);
        Ok(())
    });
    (group, settled)
}

#[tokio::test]
async fn settlements_wait_for_an_unavailable_store_without_a_bound() {
    let is_away = Arc::new(AtomicBool::new(true));
    let away = Arc::clone(&is_away);
    let (group, settled) = start_settling(move |_| {
        if away.load(Ordering::Relaxed) { Err(NotCommitted::Unavailable("away".into())) } else { Ok(()) }
    });
    group.settle(settlement(1), None);
    for n in 0..20_000 {
        group.append_log(row(n));
    }
    group.write(Operation::Execute(Vec::new())).await.unwrap_err();
    assert!(group.lost_rows() > 0);
    let lost = group.lost_rows();
    group.settle(settlement(2), Some(row(2)));
    group.write(Operation::Execute(Vec::new())).await.unwrap_err();
    assert_eq!(group.lost_rows(), lost);
    is_away.store(false, Ordering::Relaxed);
    group.write(Operation::Execute(Vec::new())).await.unwrap();
    assert_eq!(*settled.lock().unwrap(), [(settlement(1).id, false), (settlement(2).id, true)]);
}

#[tokio::test]
async fn a_settlement_is_written_without_its_row_if_that_is_refused() {
    let (group, settled) = start_settling(|batch| {
        let is_bad = |operation: &Operation| matches!(operation, Operation::Log(..));
        if batch.iter().any(is_bad) { Err(NotCommitted::Refused("no".into())) } else { Ok(()) }
    });
    group.settle(settlement(1), Some(row(1)));
    group.write(Operation::Execute(Vec::new())).await.unwrap();
    group.close().await;
    assert_eq!((group.lost_rows(), settled.lock().unwrap().clone()), (1, vec![(settlement(1).id, false)]));
}

/// The caller goes away before or during the commit.
#[tokio::test]
async fn a_reservation_whose_caller_is_gone_is_released() {
    for patience_ms in [0, 5, 15] {
        let (group, settled) = start_settling(|_| Ok(()));
        // The engine is busy when the reservation comes.
        let busy = tokio::spawn({
            let group = Arc::clone(&group);
            async move { group.write(Operation::Execute(Vec::new())).await }
        });
        let id = settlement(1).id;
        let reservation = Reservation {
            id,
            replica: uuid::Uuid::nil(),
            expires_at: Timestamp::from_unix_ms(0),
            holds: Vec::new(),
        };
        let reserving = timeout(Duration::from_millis(patience_ms), group.reserve(reservation));
        assert!(reserving.await.is_err());
        busy.await.unwrap().unwrap();
        group.close().await;
        let settled = settled.lock().unwrap();
        assert!(!settled.is_empty() && settled.iter().all(|(settled, _)| *settled == id), "{patience_ms} ms");
    }
}

fn post(items: usize) -> Operation {
    post_of("p", items)
}

fn append_of(items: usize) -> Append {
    let (now, turn) = (Timestamp::from_unix_ms(0), ResponseId::mint(1, &[0; 10]));
    let id = ItemId::derived("msg_", turn, 0);
    let location = ItemLocation { turn, position: 0 };
    let item = AppendedItem { id: id.clone(), otherwise: id, location };
    Append {
        conversation: ConversationId::mint(1, &[0; 10]),
        holder: None,
        now,
        version: 0,
        first_position: 0,
        items: vec![item; items],
    }
}

fn post_of(project: &str, items: usize) -> Operation {
    Operation::Post(Box::new(Post {
        project: ProjectId::new(project),
        created_at: Timestamp::from_unix_ms(0),
        begins: None,
        turns: Vec::new(),
        deletes: None,
        append: append_of(items),
    }))
}

fn turn(input: Bytes) -> StoredTurn {
    StoredTurn {
        id: ResponseId::mint(1, &[0; 10]),
        parent: None,
        depth: 1,
        status: Status::Completed,
        account: String::new(),
        boundary: String::new(),
        upstream_id: None,
        model: String::new(),
        expires_at: None,
        input,
        referenced: Vec::new(),
        output: Bytes::new(),
        deletes: None,
    }
}

fn record(append: Option<Append>) -> Operation {
    let created_at = Timestamp::from_unix_ms(0);
    Operation::Record(Box::new(Record {
        project: ProjectId::new("p"),
        response: StoredResponse { turn: turn(Bytes::new()), created_at, body: Bytes::new() },
        items: Vec::new(),
        log: row(1),
        settlement: None,
        append,
        needs_parent: false,
    }))
}

/// A large one.
fn post_with(input: Bytes) -> Operation {
    let Operation::Post(mut post) = post(100_000) else { unreachable!() };
    post.turns.push(turn(input));
    Operation::Post(post)
}

#[tokio::test]
async fn between_two_large_operations_others_are_written() {
    let kinds = Arc::<Mutex<Vec<bool>>>::default();
    let noted = Arc::clone(&kinds);
    let (group, commits) = start(LONG, move |batch| {
        noted.lock().unwrap().push(batch.iter().any(Operation::is_large));
        Ok(())
    });
    let large = async {
        let posts = (0..5).map(|_| group.write(post(100_000)));
        assert!(futures_util::future::join_all(posts).await.iter().all(Result::is_ok));
    };
    let small = async {
        for _ in 0..4 {
            assert!(write_at_once(&group, 3).await.iter().all(Result::is_ok));
        }
    };
    tokio::join!(large, small);
    let (commits, kinds) = (commits.lock().unwrap().clone(), kinds.lock().unwrap().clone());
    let mut batches = kinds.iter().zip(commits);
    assert!(batches.all(|(is_large, operations)| operations == if *is_large { 1 } else { 3 }));
    assert_eq!(kinds, [false, true, false, true, false, true, false, true, true]);
}

#[tokio::test]
async fn projects_take_turns_with_large_operations() {
    let order = Arc::<Mutex<Vec<String>>>::default();
    let noted = Arc::clone(&order);
    let (group, _) = start(LONG, move |batch| {
        noted
            .lock()
            .unwrap()
            .extend(batch.iter().filter_map(|operation| Some(operation.project()?.to_string())));
        Ok(())
    });
    let posts = ["a", "a", "a", "b", "c", "b"].map(|project| group.write(post_of(project, 100_000)));
    assert!(futures_util::future::join_all(posts).await.iter().all(Result::is_ok));
    assert_eq!(order.lock().unwrap().concat(), "abcaba");
}

#[tokio::test]
async fn many_middling_operations_share_no_batch() {
    let (group, commits) = start(LONG, |_| Ok(()));
    let posts = (0..10).map(|_| group.write(post(1_000)));
    assert!(futures_util::future::join_all(posts).await.iter().all(Result::is_ok));
    assert_eq!(*commits.lock().unwrap(), [5, 5]);
}

#[tokio::test]
async fn one_of_several_engines_at_a_time_writes_a_large_operation() {
    let (began, together) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let engines = [(); 3].map(|()| Counted { began: Arc::clone(&began), together: Arc::clone(&together) });
    let group = Group::start_tasks(engines, LONG);
    let posts = (0..5).map(|_| group.write(post(100_000)));
    let (written, ()) = tokio::join!(futures_util::future::join_all(posts), group.close());
    assert!(written.iter().all(Result::is_ok));
    assert_eq!(together.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_large_operation_whose_caller_is_gone_is_not_written_and_harms_nobody() {
    let (group, commits) = start(LONG, |_| Ok(()));
    let (impatient, patient) = (group.write(post(100_000)), group.write(post(100_000)));
    assert!(impatient.now_or_never().is_none());
    patient.await.unwrap();
    group.close().await;
    assert_eq!(*commits.lock().unwrap(), [1, 0]);
}

#[tokio::test]
async fn a_large_operation_whose_caller_gives_up_takes_no_memory_while_another_is_written() {
    let is_begun = Arc::new(AtomicBool::new(false));
    let noted = Arc::clone(&is_begun);
    let (go_on, wait) = std::sync::mpsc::channel::<()>();
    let engine = Scripted {
        commits: Arc::default(),
        script: move |_: &[Operation]| {
            noted.store(true, Ordering::Relaxed);
            wait.recv().map_err(|_| NotCommitted::Deadline)
        },
    };
    let group = Arc::new(Group::start_on_thread("busy", engine, LONG).unwrap());
    let written = tokio::spawn({
        let group = Arc::clone(&group);
        async move { group.write(post(100_000)).await }
    });
    eventually("the writer is busy", async || is_begun.load(Ordering::Relaxed)).await;
    let memory: Arc<[u8]> = Arc::from(*b"{}");
    let mut impatient = Box::pin(group.write(post_with(Bytes::from_owner(Arc::clone(&memory)))));
    assert!(impatient.as_mut().now_or_never().is_none());
    assert_eq!(Arc::strong_count(&memory), 2);
    drop(impatient);
    assert_eq!(Arc::strong_count(&memory), 1);
    go_on.send(()).unwrap();
    written.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_large_operation_that_takes_too_long_does_not_make_the_store_unavailable() {
    for (commit_timeout, outcome) in [(Duration::from_millis(5), Ok(())), (LONG, Err(NotCommitted::Deadline))]
    {
        let (group, _) = start(commit_timeout, move |_| outcome.clone());
        assert!(matches!(group.write(post(100_000)).await, Err(StoreError::Deadline(_))));
        assert!(group.is_available());
    }
}
