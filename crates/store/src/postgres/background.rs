//! The ends of background turns, with what belongs to them.

use std::collections::BTreeMap;

use tokio_postgres::{Client, Error};

use super::conversations::{advance, insert_items};
use super::insert::Inserts;
use super::limits::LimitOperations;
use super::statement;
use super::write::insert;
use crate::background;
use crate::body::Encoder;
use crate::conversations::Pending;
use crate::group::{Operation, Outcome};
use crate::{Appended, BackgroundEnd, BackgroundResult};

/// An end in a batch, and what it writes if the turn's lease still holds.
pub(super) struct Ending<'a> {
    index: usize,
    end: &'a BackgroundEnd,
    pending: Option<Pending<'a>>,
    inserts: Inserts<'a>,
}

// === impl Ending ===

impl<'a> Ending<'a> {
    /// All of a batch, in the order of their conversations.
    pub(super) fn all(batch: &'a [Operation], encoder: &mut Encoder) -> Vec<Self> {
        let ends = batch.iter().enumerate().filter_map(|(index, operation)| match operation {
            Operation::EndBackground(end) => Some((index, &**end)),
            _ => None,
        });
        let mut all: Vec<_> = ends.map(|(index, end)| Self::new(index, end, encoder)).collect();
        all.sort_by_key(|ending| ending.pending.as_ref().map(|pending| pending.append.conversation));
        all
    }

    fn new(index: usize, end: &'a BackgroundEnd, encoder: &mut Encoder) -> Self {
        let pending = match &end.result {
            BackgroundResult::Stored(record) => Pending::of_record(record),
            BackgroundResult::Kept { .. } => None,
        };
        Self { index, end, pending, inserts: Inserts::of_end(end, encoder) }
    }

    /// Writes it if the lease still holds. Its settlement is added to those of the batch.
    pub(super) async fn run(
        self,
        client: &Client,
        limiting: &mut LimitOperations<'a>,
        outcomes: &mut [Outcome],
    ) -> Result<(), Error> {
        let (index, end, appends) = (self.index, self.end, self.pending.is_some());
        if appends {
            client.batch_execute("SAVEPOINT ending").await?;
        }
        let ended = self.write(client).await?;
        if appends && ended == Some(Appended::Conflict) {
            client.batch_execute("ROLLBACK TO ending").await?;
        }
        if ended.is_some_and(|appended| appended != Appended::Conflict) {
            limiting.settle(end.settlement());
        }
        outcomes[index] = Outcome::Ended(ended);
        Ok(())
    }

    async fn write(mut self, client: &Client) -> Result<Option<Appended>, Error> {
        if !statement::execute(client, &background::end(self.end)).await? {
            return Ok(None);
        }
        let appended = match &self.pending {
            Some(pending) => advance(client, pending).await?,
            None => Appended::Done,
        };
        if appended != Appended::Conflict {
            self.inserts.leave_out(&BTreeMap::from([(0, appended)]));
            insert(client, self.inserts.columns()).await?;
            let done = self.pending.iter().filter(|_| appended == Appended::Done);
            insert_items(client, done).await?;
        }
        Ok(Some(appended))
    }
}
