//! Reservations and counters of a whole batch at once, in as many statements as for a single one.
//!
//! All transactions lock rows in the same order: reservations before counters, and each by id. Counters are changed before they
//! are read, because that locks them; holds that then turn out to exceed a limit are taken back in the same transaction.

use std::collections::{BTreeMap, HashSet};

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error};
use uuid::Uuid;

use super::statement::Argument;
use crate::group::{Operation, Outcome};
use crate::limits::{
    Change, Changes, Count, CounterId, StoredHold, Sweep, changes_of, counted, decode_holds, encode_holds,
    judge,
};
use crate::{Abandoned, Reservation, Reserved, Settlement, Spent, Timestamp};

pub(super) const CHANGE: &str = "INSERT INTO counters (scope, rule, window_start, window_end, used, held) \
     SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[]) \
     ON CONFLICT (scope, rule, window_start) DO UPDATE SET used = counters.used + excluded.used, \
     held = counters.held + excluded.held RETURNING scope, rule, window_start, used, held";

pub(super) const RESERVE: &str = "INSERT INTO reservations (id, replica, expires_at, holds) \
     SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::text[])";

pub(super) const SETTLE: &str = "DELETE FROM reservations WHERE id = ANY (ARRAY( \
     SELECT id FROM reservations WHERE id = ANY ($1::uuid[]) ORDER BY id FOR UPDATE)) \
     RETURNING id, swept_at IS NOT NULL, holds";

/// Sweeps the reservations of which the condition is true. Skips those that another transaction is settling or sweeping.
macro_rules! sweep {
    ($condition:literal) => {
        concat!(
            "UPDATE reservations SET swept_at = $1::bigint WHERE id = ANY (ARRAY(SELECT id FROM reservations \
             WHERE swept_at IS NULL AND ",
            $condition,
            " ORDER BY expires_at LIMIT $2::bigint FOR UPDATE SKIP LOCKED)) RETURNING holds"
        )
    };
}

pub(super) const SWEEP_EXPIRED: &str = sweep!("expires_at <= $1::bigint");

/// Whoever takes over a background turn settles it.
pub(super) const SWEEP_OTHERS: &str = sweep!(
    "replica IS DISTINCT FROM $3::uuid AND NOT EXISTS \
     (SELECT 1 FROM background_turns b WHERE b.id = reservations.id AND b.ended_at IS NULL)"
);

pub(super) const SWEEP_REPLICA: &str = sweep!(
    "replica = $3::uuid AND NOT EXISTS (SELECT 1 FROM replicas WHERE replicas.id = $3::uuid AND beats > $4::bigint) \
     AND NOT EXISTS (SELECT 1 FROM background_turns b WHERE b.id = reservations.id AND b.ended_at IS NULL)"
);

/// The operations of a batch on limits, each with its position in the batch.
#[derive(Default)]
pub(super) struct LimitOperations<'a> {
    reservations: Vec<(usize, &'a Reservation)>,
    settlements: BTreeMap<Uuid, &'a Settlement>,
    /// Settlements of reservations in this batch: their callers have gone away since.
    abandoned: BTreeMap<Uuid, &'a Settlement>,
    sweep: Option<(usize, Sweep)>,
}

impl<'a> LimitOperations<'a> {
    pub(super) fn of(batch: &'a [Operation]) -> Self {
        let mut all = Self::default();
        for (index, operation) in batch.iter().enumerate() {
            match operation {
                Operation::Reserve(reservation) => all.reservations.push((index, reservation)),
                Operation::Sweep(sweep) => all.sweep = Some((index, *sweep)),
                _ => {
                    let settlement = operation.settlement();
                    all.settlements.extend(settlement.map(|settlement| (settlement.id.uuid(), settlement)));
                }
            }
        }
        let reserved: HashSet<Uuid> = all.reservations.iter().map(|(_, new)| new.id.uuid()).collect();
        all.abandoned = all.settlements.extract_if(.., |id, _| reserved.contains(id)).collect();
        all
    }

    /// Settles one more turn.
    pub(super) fn settle(&mut self, settlement: Option<&'a Settlement>) {
        self.settlements.extend(settlement.map(|settlement| (settlement.id.uuid(), settlement)));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.reservations.is_empty() && self.settlements.is_empty() && self.sweep.is_none()
    }

    /// Runs at the end of a transaction, as others wait for the counters from here on. Sets the outcomes of reservations and
    /// sweeps.
    pub(super) async fn run(&self, client: &Client, outcomes: &mut [Outcome]) -> Result<(), Error> {
        let mut changes = Changes::default();
        settle(client, &self.settlements, &mut changes).await?;
        if let Some((index, which)) = self.sweep {
            outcomes[index] = Outcome::Swept(sweep(client, which, &mut changes).await?);
        }
        let mut tentative = Changes::default();
        for (_, reservation) in &self.reservations {
            changes_of(reservation).for_each(|(counter, change)| tentative.add(counter, change));
        }
        let mut values = apply(client, &changes, &tentative).await?;
        let (mut held, mut refused) = (Vec::new(), Changes::default());
        for (index, reservation) in &self.reservations {
            let reserved = values.reserve(reservation);
            if reserved.is_held {
                held.push(*reservation);
            } else {
                let taken_back = |change: Change| Change { held: -change.held, ..change };
                changes_of(reservation).for_each(|(id, change)| refused.add(id, taken_back(change)));
            }
            outcomes[*index] = Outcome::Reserved(Box::new(reserved));
        }
        insert(client, &held).await?;
        settle(client, &self.abandoned, &mut refused).await?;
        apply(client, &refused, &Changes::default()).await.map(|_| ())
    }
}

/// The values of counters in this transaction.
#[derive(Default)]
struct CounterValues(BTreeMap<CounterId, Count>);

impl CounterValues {
    fn reserve(&mut self, reservation: &Reservation) -> Reserved {
        let counts =
            reservation.holds.iter().map(|hold| self.0.get(&hold.counter).copied().unwrap_or_default());
        let reserved = judge(reservation, counts.collect());
        if reserved.is_held {
            for (counter, change) in changes_of(reservation) {
                if let Some(count) = self.0.get_mut(counter) {
                    count.held += counted(change.held);
                }
            }
        }
        reserved
    }
}

/// Adds both, and returns the values of the counters without `tentative`.
async fn apply(client: &Client, changes: &Changes, tentative: &Changes) -> Result<CounterValues, Error> {
    let mut all = Changes::default();
    changes.0.iter().chain(&tentative.0).for_each(|(counter, change)| all.add(counter, *change));
    if all.0.is_empty() {
        return Ok(CounterValues::default());
    }
    let scopes: Vec<&str> = all.0.keys().map(|id| &*id.scope).collect();
    let rules: Vec<&str> = all.0.keys().map(|id| &*id.rule).collect();
    let starts: Vec<i64> = all.0.keys().map(|id| id.window_start.unix_ms()).collect();
    let column = |of: fn(&Change) -> i64| all.0.values().map(of).collect::<Vec<i64>>();
    let (ends, used) = (column(|change| change.window_end), column(|change| change.used));
    let held = column(|change| change.held);
    let columns: [(&(dyn ToSql + Sync), Type); 6] = [
        (&scopes, Type::TEXT_ARRAY),
        (&rules, Type::TEXT_ARRAY),
        (&starts, Type::INT8_ARRAY),
        (&ends, Type::INT8_ARRAY),
        (&used, Type::INT8_ARRAY),
        (&held, Type::INT8_ARRAY),
    ];
    let mut values = BTreeMap::new();
    for row in client.query_typed(CHANGE, &columns).await? {
        let (scope, rule): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
        let window_start = Timestamp::from_unix_ms(row.try_get(2)?);
        let id = CounterId { scope: scope.into(), rule: rule.into(), window_start };
        let tentative = tentative.0.get(&id).map_or(0, |change| change.held);
        let count =
            Count { used: counted(row.try_get(3)?), held: counted(row.try_get::<_, i64>(4)? - tentative) };
        values.insert(id, count);
    }
    Ok(CounterValues(values))
}

async fn insert(client: &Client, reservations: &[&Reservation]) -> Result<(), Error> {
    if reservations.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = reservations.iter().map(|reservation| reservation.id.uuid()).collect();
    let replicas: Vec<Uuid> = reservations.iter().map(|reservation| reservation.replica).collect();
    let expiries: Vec<i64> =
        reservations.iter().map(|reservation| reservation.expires_at.unix_ms()).collect();
    let holds: Vec<String> = reservations.iter().map(|reservation| encode_holds(reservation)).collect();
    let columns: [(&(dyn ToSql + Sync), Type); 4] = [
        (&ids, Type::UUID_ARRAY),
        (&replicas, Type::UUID_ARRAY),
        (&expiries, Type::INT8_ARRAY),
        (&holds, Type::TEXT_ARRAY),
    ];
    client.execute_typed(RESERVE, &columns).await.map(|_| ())
}

/// Skips turns that are settled already.
async fn settle(
    client: &Client,
    settlements: &BTreeMap<Uuid, &Settlement>,
    changes: &mut Changes,
) -> Result<(), Error> {
    if settlements.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = settlements.keys().copied().collect();
    for row in client.query_typed(SETTLE, &[(&ids, Type::UUID_ARRAY)]).await? {
        let holds: Vec<StoredHold> = decode_holds(row.try_get(2)?);
        if let Some(settlement) = settlements.get(&row.try_get(0)?) {
            changes.release(&holds, row.try_get(1)?, settlement.spent);
        }
    }
    Ok(())
}

async fn sweep(client: &Client, sweep: Sweep, changes: &mut Changes) -> Result<u64, Error> {
    let (now, max_rows) = (sweep.now.unix_ms(), i64::from(sweep.max_rows));
    let mut arguments: Vec<Argument<'_>> = vec![(&now, Type::INT8), (&max_rows, Type::INT8)];
    let beats;
    let text = match &sweep.abandoned {
        Abandoned::Expired => SWEEP_EXPIRED,
        Abandoned::NotOf(replica) => {
            arguments.push((replica, Type::UUID));
            SWEEP_OTHERS
        }
        Abandoned::Of(replica) => {
            beats = replica.beats();
            arguments.extend([(&replica.id as _, Type::UUID), (&beats as _, Type::INT8)]);
            SWEEP_REPLICA
        }
    };
    let rows = client.query_typed(text, &arguments).await?;
    for row in &rows {
        changes.release(&decode_holds(row.try_get(0)?), false, Spent::default());
    }
    Ok(rows.len() as u64)
}
