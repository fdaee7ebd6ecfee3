//! The ends of background turns, with what belongs to them.

use tokio_postgres::{Client, Error};

use super::insert::{Column, Inserts};
use super::limits::LimitOperations;
use super::statement;
use super::write::insert;
use crate::BackgroundEnd;
use crate::background;
use crate::body::Encoder;
use crate::group::{Operation, Outcome};

/// An end in a batch, and what it inserts if the turn's lease still holds.
pub(super) struct Ending<'a> {
    index: usize,
    end: &'a BackgroundEnd,
    columns: Vec<Column<'a>>,
}

// === impl Ending ===

impl<'a> Ending<'a> {
    /// All of a batch.
    pub(super) fn all(batch: &'a [Operation], encoder: &mut Encoder) -> Vec<Self> {
        let ends = batch.iter().enumerate().filter_map(|(index, operation)| match operation {
            Operation::EndBackground(end) => Some((index, &**end)),
            _ => None,
        });
        ends.map(|(index, end)| Self { index, end, columns: Inserts::of_end(end, encoder).columns() })
            .collect()
    }

    /// Writes it if the lease still holds. Its settlement is added to those of the batch.
    pub(super) async fn run(
        self,
        client: &Client,
        limiting: &mut LimitOperations<'a>,
        outcomes: &mut [Outcome],
    ) -> Result<(), Error> {
        let holds = statement::execute(client, &background::end(self.end)).await?;
        if holds {
            insert(client, self.columns).await?;
            limiting.settle(self.end.settlement());
        }
        outcomes[self.index] = Outcome::Changed(holds);
        Ok(())
    }
}
