//! The index of items by their ids, and the entries on their way into it.
//!
//! Ids of items are random, so an entry that is inserted by itself changes a page that no other entry of its commit changes,
//! which was a fifth of a stored turn's CPU time. New entries are therefore appended to the table `new_items`, which makes them
//! durable, and kept in memory, where they are found. Once there are enough, commits move them to the index a few at a time and
//! in its order, so that neighbours share a page.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex};

use antiphon_protocol::id::{ItemId, ProjectId};
use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

use super::readers::lock;

/// How many entries are moved together. More of them share more pages, and take more memory: 150 bytes each, and at most 700 with
/// the longest ids. While they move, about as many gather, and a commit adds at most as many at once.
const GENERATION: usize = 16_384;
/// The least that a commit moves. It moves twice as many as the last one added, if that is more, and so gets ahead of them.
const LEAST_MOVED: usize = 64;
/// A turn with more items than this has them in the index at once: they share pages among themselves.
pub(super) const MAX_APPENDED: usize = 64;

pub(super) const APPEND: &str =
    "INSERT INTO new_items (item_id, project, response_id, position) VALUES (?,?,?,?)";

/// The newest response with an item has it.
pub(super) const INSERT: &str = "INSERT INTO items (item_id, project, response_id, position) VALUES (?,?,?,?) \
     ON CONFLICT (item_id, project) DO UPDATE SET response_id = excluded.response_id, position = excluded.position \
     WHERE excluded.response_id >= items.response_id";

pub(super) const FIND: &str = "SELECT response_id, position FROM items WHERE item_id = ?1 AND project = ?2";

/// Keeps an item that a later response has recorded again.
pub(super) const DELETE: &str = "DELETE FROM items WHERE item_id = ?1 AND project = ?2 AND response_id = ?3";

pub(super) const LAST_APPENDED: &str = "SELECT max(seq) FROM new_items";

pub(super) const DELETE_MOVED: &str = "DELETE FROM new_items WHERE seq <= ?1";

/// Without those whose response was purged.
pub(super) const NEW_ITEMS: &str = "SELECT n.item_id, n.project, n.response_id, n.position FROM new_items n \
     WHERE EXISTS (SELECT 1 FROM responses r WHERE r.id = n.response_id AND r.project = n.project) ORDER BY n.seq";

/// As [`INSERT`], for all that is left.
pub(super) const INSERT_ALL: &str = "INSERT INTO items (item_id, project, response_id, position) \
     SELECT item_id, project, response_id, position FROM new_items n \
     WHERE EXISTS (SELECT 1 FROM responses r WHERE r.id = n.response_id AND r.project = n.project) \
     ORDER BY item_id, project, seq \
     ON CONFLICT (item_id, project) DO UPDATE SET response_id = excluded.response_id, position = excluded.position \
     WHERE excluded.response_id >= items.response_id";

/// A view that stands for the index, for those who read all of it: it has the new items as well.
pub(super) const COMPLETE: &str = "CREATE TEMP TABLE newest_items (item_id TEXT NOT NULL, project TEXT NOT NULL, \
       response_id BLOB NOT NULL, position INTEGER NOT NULL, PRIMARY KEY (item_id, project)) STRICT, WITHOUT ROWID;
     INSERT OR REPLACE INTO temp.newest_items SELECT item_id, project, response_id, position FROM main.new_items n \
       WHERE EXISTS (SELECT 1 FROM main.responses r WHERE r.id = n.response_id AND r.project = n.project) ORDER BY seq;
     CREATE TEMP VIEW items AS SELECT item_id, project, response_id, position FROM main.items i \
       WHERE NOT EXISTS (SELECT 1 FROM temp.newest_items n WHERE n.item_id = i.item_id AND n.project = i.project) \
       UNION ALL SELECT item_id, project, response_id, position FROM temp.newest_items;";

/// In the order of the index.
type Key = (ItemId, ProjectId);

/// Where an item is. The greater one is that of the newer response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) response: Uuid,
    /// Among the response's input and then output items.
    pub(super) position: u32,
}

/// Entries that may not be in the index yet.
#[derive(Debug, Default)]
pub(super) struct NewItems(Mutex<Generations>);

#[derive(Debug, Default)]
struct Generations {
    gathering: BTreeMap<Key, Place>,
    /// Those that commits move now. They stay until all are in the index.
    moving: BTreeMap<Key, Place>,
}

/// The writer's side.
#[derive(Debug)]
pub(super) struct ItemIndex {
    new: Arc<NewItems>,
    /// `false` if another process may serve the database: then only that one moves entries.
    moves: bool,
    /// The last entry of `moving` in the table `new_items`.
    last_moving: i64,
    moved_up_to: Option<Key>,
    /// How many entries the last commit appended.
    appended: usize,
}

/// What a transaction does, which counts once it is committed.
#[derive(Debug, Default)]
pub(super) struct Changes {
    appended: Vec<(Key, Place)>,
    purged: Vec<(Key, Uuid)>,
    step: Step,
}

#[derive(Debug, Default)]
enum Step {
    #[default]
    None,
    /// What was gathered begins to move; this is the last entry of it in `new_items`.
    Began(i64),
    MovedUpTo(Key),
    MovedAll,
}

// === impl NewItems ===

impl NewItems {
    /// Looks among the new items, and then in the index: what has left the former is in the latter.
    pub(super) fn find(
        &self,
        connection: &Connection,
        project: &ProjectId,
        item: &ItemId,
    ) -> rusqlite::Result<Option<Place>> {
        let new = lock(&self.0).place(&(item.clone(), project.clone()));
        let mut find = connection.prepare_cached(FIND)?;
        let place = |row: &rusqlite::Row<'_>| Ok(Place { response: row.get(0)?, position: row.get(1)? });
        let indexed = find.query_row(params![item.as_str(), project.as_str()], place).optional()?;
        Ok(new.max(indexed))
    }
}

// === impl Generations ===

impl Generations {
    fn place(&self, key: &Key) -> Option<Place> {
        self.gathering.get(key).or_else(|| self.moving.get(key)).copied()
    }
}

// === impl ItemIndex ===

impl ItemIndex {
    /// Loads the entries that an earlier process had not moved.
    pub(super) fn load(new: Arc<NewItems>, connection: &Connection, moves: bool) -> rusqlite::Result<Self> {
        let gathering = match last_appended(connection)? {
            Some(_) => load(connection)?,
            None => BTreeMap::new(),
        };
        *lock(&new.0) = Generations { gathering, moving: BTreeMap::new() };
        Ok(Self { new, moves, last_moving: 0, moved_up_to: None, appended: 0 })
    }

    /// Moves some of the new entries. The changes must be given back once the transaction is committed.
    pub(super) fn advance(&self, transaction: &Connection) -> rusqlite::Result<Changes> {
        let step = match self.moves {
            true => self.step(transaction)?,
            false => Step::None,
        };
        Ok(Changes { step, ..Changes::default() })
    }

    fn step(&self, transaction: &Connection) -> rusqlite::Result<Step> {
        let count = LEAST_MOVED.max(2 * self.appended);
        let next: Vec<(Key, Place)> = {
            let generations = lock(&self.new.0);
            if generations.moving.is_empty() {
                if generations.gathering.len() < GENERATION {
                    return Ok(Step::None);
                }
                drop(generations);
                return Ok(Step::Began(last_appended(transaction)?.unwrap_or(0)));
            }
            let after = self.moved_up_to.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let rest = generations.moving.range::<Key, _>((after, Bound::Unbounded));
            rest.take(count).map(|(key, place)| (key.clone(), *place)).collect()
        };
        let mut insert = transaction.prepare_cached(INSERT)?;
        for ((item, project), Place { response, position }) in &next {
            insert.execute(params![item.as_str(), project.as_str(), response, position])?;
        }
        match next.into_iter().nth(count - 1) {
            Some((last, _)) => Ok(Step::MovedUpTo(last)),
            None => {
                transaction.prepare_cached(DELETE_MOVED)?.execute([self.last_moving])?;
                Ok(Step::MovedAll)
            }
        }
    }

    /// Makes the changes of a committed transaction visible.
    pub(super) fn committed(&mut self, changes: Changes) {
        let Changes { appended, purged, step } = changes;
        self.appended = appended.len();
        let mut guard = lock(&self.new.0);
        let generations = &mut *guard;
        let mut moved = BTreeMap::new();
        match step {
            Step::None => {}
            Step::Began(last) => {
                (self.last_moving, self.moved_up_to) = (last, None);
                std::mem::swap(&mut generations.moving, &mut generations.gathering);
            }
            Step::MovedUpTo(key) => self.moved_up_to = Some(key),
            Step::MovedAll => std::mem::swap(&mut generations.moving, &mut moved),
        }
        for (key, response) in &purged {
            for generation in [&mut generations.gathering, &mut generations.moving] {
                if generation.get(key).is_some_and(|place| place.response == *response) {
                    generation.remove(key);
                }
            }
        }
        generations.gathering.extend(appended);
        drop(guard);
        drop(moved);
    }

    /// Moves everything that is left, so that a later start has nothing to load.
    pub(super) fn finish(&mut self, connection: &mut Connection) -> rusqlite::Result<()> {
        *lock(&self.new.0) = Generations::default();
        if self.moves { move_all(connection) } else { Ok(()) }
    }
}

/// Inserts many items of one response.
pub(super) fn insert(
    connection: &Connection,
    project: &ProjectId,
    response: Uuid,
    items: &[(ItemId, u32)],
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(INSERT)?;
    for (item, position) in items {
        statement.execute(params![item.as_str(), project.as_str(), response, position])?;
    }
    Ok(())
}

/// Puts [a view](COMPLETE) in the place of the index on this connection, until the end of the transaction, if there are new items.
pub(super) fn complete(connection: &Connection) -> rusqlite::Result<()> {
    last_appended(connection)?.map_or(Ok(()), |_| connection.execute_batch(COMPLETE))
}

/// Moves all new items to the index of a database that nobody else uses.
pub(super) fn move_all(connection: &mut Connection) -> rusqlite::Result<()> {
    if last_appended(connection)?.is_none() {
        return Ok(());
    }
    let transaction = connection.transaction()?;
    transaction.execute(INSERT_ALL, ())?;
    transaction.execute(DELETE_MOVED, [i64::MAX])?;
    transaction.commit()
}

/// `None` if there is no new item.
fn last_appended(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    connection.query_row(LAST_APPENDED, (), |row| row.get(0))
}

fn load(connection: &Connection) -> rusqlite::Result<BTreeMap<Key, Place>> {
    let mut statement = connection.prepare(NEW_ITEMS)?;
    let mut rows = statement.query(())?;
    let mut entries = BTreeMap::new();
    while let Some(row) = rows.next()? {
        // What is no id was not recorded as one.
        let Some(item) = ItemId::new(row.get_ref(0)?.as_str()?) else { continue };
        let key = (item, ProjectId::new(row.get_ref(1)?.as_str()?));
        entries.insert(key, Place { response: row.get(2)?, position: row.get(3)? });
    }
    Ok(entries)
}

// === impl Changes ===

impl Changes {
    /// Takes what was appended to `new_items`.
    pub(super) fn appended(&mut self, project: &ProjectId, response: Uuid, items: &[(ItemId, u32)]) {
        let entry = |(item, position): &(ItemId, u32)| {
            ((item.clone(), project.clone()), Place { response, position: *position })
        };
        self.appended.extend(items.iter().map(entry));
    }

    /// Removes the entries of purged items.
    pub(super) fn remove(
        &mut self,
        connection: &Connection,
        items: Vec<(ItemId, ProjectId, Uuid)>,
    ) -> rusqlite::Result<()> {
        let mut statement = connection.prepare_cached(DELETE)?;
        for (item, project, response) in items {
            statement.execute(params![item.as_str(), project.as_str(), response])?;
            self.purged.push(((item, project), response));
        }
        Ok(())
    }
}
