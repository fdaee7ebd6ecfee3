//! Reservations and counters.

use rusqlite::{Connection, OptionalExtension, params};

use crate::limits::{Changes, Count, Sweep, changes_of, counted, decode_holds, encode_holds, judge};
use crate::{Abandoned, Reservation, Reserved, Settlement, Spent};

pub(super) const LOOK: &str =
    "SELECT used, held FROM counters WHERE scope = ?1 AND rule = ?2 AND window_start = ?3";

pub(super) const CHANGE: &str = "INSERT INTO counters (scope, rule, window_start, window_end, used, held) VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
     ON CONFLICT (scope, rule, window_start) DO UPDATE SET used = used + excluded.used, held = held + excluded.held";

pub(super) const RESERVE: &str =
    "INSERT INTO reservations (id, replica, expires_at, holds) VALUES (?1, ?2, ?3, ?4)";

pub(super) const SETTLE: &str =
    "DELETE FROM reservations WHERE id = ?1 RETURNING swept_at IS NOT NULL, holds";

/// Sweeps the reservations of which the condition is true.
macro_rules! sweep {
    ($condition:literal) => {
        concat!(
            "UPDATE reservations SET swept_at = ?1 WHERE id IN (SELECT id FROM reservations WHERE swept_at IS NULL AND ",
            $condition,
            " ORDER BY expires_at LIMIT ?2) RETURNING holds"
        )
    };
}

pub(super) const SWEEP_EXPIRED: &str = sweep!("expires_at <= ?1");

/// Whoever takes over a background turn settles it.
pub(super) const SWEEP_OTHERS: &str = sweep!(
    "replica IS NOT ?3 AND NOT EXISTS (SELECT 1 FROM background_turns b WHERE b.id = reservations.id AND b.ended_at IS NULL)"
);

pub(super) const SWEEP_REPLICA: &str = sweep!(
    "replica = ?3 AND NOT EXISTS (SELECT 1 FROM replicas WHERE replicas.id = ?3 AND beats > ?4) \
     AND NOT EXISTS (SELECT 1 FROM background_turns b WHERE b.id = reservations.id AND b.ended_at IS NULL)"
);

pub(super) fn reserve(connection: &Connection, reservation: &Reservation) -> rusqlite::Result<Reserved> {
    let mut look = connection.prepare_cached(LOOK)?;
    let mut counts = Vec::with_capacity(reservation.holds.len());
    for hold in &reservation.holds {
        let id = &hold.counter;
        let found = look.query_row(params![id.scope, id.rule, id.window_start.unix_ms()], |row| {
            Ok(Count { used: counted(row.get(0)?), held: counted(row.get(1)?) })
        });
        counts.push(found.optional()?.unwrap_or_default());
    }
    let reserved = judge(reservation, counts);
    if reserved.is_held {
        let mut changes = Changes::default();
        changes_of(reservation).for_each(|(counter, change)| changes.add(counter, change));
        let holds = encode_holds(reservation);
        let (id, expires_at) = (reservation.id.uuid(), reservation.expires_at.unix_ms());
        connection.prepare_cached(RESERVE)?.execute(params![id, reservation.replica, expires_at, holds])?;
        apply(connection, &changes)?;
    }
    Ok(reserved)
}

/// Does nothing for a turn that is settled already.
pub(super) fn settle(connection: &Connection, settlement: &Settlement) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(SETTLE)?;
    let removed = statement.query_row([settlement.id.uuid()], |row| {
        Ok((row.get::<_, bool>(0)?, decode_holds(row.get_ref(1)?.as_str()?)))
    });
    let Some((was_swept, holds)) = removed.optional()? else { return Ok(()) };
    let mut changes = Changes::default();
    changes.release(&holds, was_swept, settlement.spent);
    apply(connection, &changes)
}

pub(super) fn sweep(connection: &Connection, sweep: Sweep) -> rusqlite::Result<u64> {
    let Sweep { abandoned, now, max_rows } = sweep;
    let now = now.unix_ms();
    let mut statement = connection.prepare_cached(match abandoned {
        Abandoned::Expired => SWEEP_EXPIRED,
        Abandoned::NotOf(_) => SWEEP_OTHERS,
        Abandoned::Of(_) => SWEEP_REPLICA,
    })?;
    let mut rows = match abandoned {
        Abandoned::Expired => statement.query(params![now, max_rows]),
        Abandoned::NotOf(replica) => statement.query(params![now, max_rows, replica]),
        Abandoned::Of(replica) => statement.query(params![now, max_rows, replica.id, replica.beats()]),
    }?;
    let (mut changes, mut swept) = (Changes::default(), 0);
    while let Some(row) = rows.next()? {
        changes.release(&decode_holds(row.get_ref(0)?.as_str()?), false, Spent::default());
        swept += 1;
    }
    apply(connection, &changes)?;
    Ok(swept)
}

fn apply(connection: &Connection, changes: &Changes) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(CHANGE)?;
    for (id, change) in &changes.0 {
        statement.execute(params![
            id.scope,
            id.rule,
            id.window_start.unix_ms(),
            change.window_end,
            change.used,
            change.held
        ])?;
    }
    Ok(())
}
