//! Verifies that the index of items leads to items with its ids.

use antiphon_protocol::id::{ProjectId, ResponseId};
use antiphon_protocol::{item, json};
use uuid::Uuid;

use super::{PAGE, Verifier, VerifyProgress, VerifyStep};
use crate::StoreError;
use crate::sql::{Columns, Kind, Query, id, number, text};

const COUNT: &str = "SELECT count(*) FROM items";

const PAGE_OF_ITEMS: &str = "SELECT item_id, project, response_id, position FROM items \
     WHERE (item_id, project) > ($1, $2) ORDER BY item_id, project LIMIT $3";

const ARRAYS: &str = "SELECT input, output FROM responses WHERE id = $1 AND project = $2";

/// For the tests of both engines.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 3] = [COUNT, PAGE_OF_ITEMS, ARRAYS];

/// An entry of the index.
struct Entry {
    item: String,
    project: String,
    response: Uuid,
    position: i64,
}

impl Verifier<'_> {
    /// `matched` entries are known to be right. If that is not all, finds those that are wrong.
    pub(super) async fn verify_items(&mut self, matched: u64) -> Result<(), StoreError> {
        let of_rows = self.count(COUNT).await?;
        self.report.items = of_rows;
        if matched == of_rows {
            return Ok(());
        }
        let (mut last, mut rows) = ((String::new(), String::new()), 0);
        loop {
            let arguments = vec![text(last.0.clone()), text(last.1.clone()), number(PAGE)];
            let columns = &[Kind::Text, Kind::Text, Kind::Id, Kind::Number];
            let entries = match self.select(Query { text: PAGE_OF_ITEMS, arguments, columns }).await {
                Ok(rows) => rows.into_iter().map(entry).collect::<Result<Vec<_>, _>>()?,
                Err(error) => return self.unreadable(None, "the index of items", &error).await,
            };
            let Some(newest) = entries.last() else { return Ok(()) };
            last = (newest.item.clone(), newest.project.clone());
            for entry in &entries {
                self.verify_entry(entry).await?;
                rows += 1;
                (self.progress)(VerifyProgress { step: VerifyStep::Items, rows, of_rows });
            }
        }
    }

    async fn verify_entry(&mut self, entry: &Entry) -> Result<(), StoreError> {
        let Entry { item, project, response, position } = entry;
        let holder = (ProjectId::new(project), ResponseId::from_uuid(*response));
        let arguments = vec![id(*response), text(project.clone())];
        let query = Query { text: ARRAYS, arguments, columns: &[Kind::Bytes, Kind::Bytes] };
        let Ok(rows) = self.select(query).await else {
            // The response itself is reported already.
            return self.side.renew().await;
        };
        let problem = match rows.into_iter().next().map(|row| is_at(entry, row)) {
            Some(true) => return Ok(()),
            Some(false) => {
                format!("the index of items leads from {item} to position {position}, where another item is")
            }
            None => format!("the index of items leads from {item} to it, but it is missing"),
        };
        self.add(Some(holder), problem);
        Ok(())
    }
}

fn entry(mut row: Columns) -> Result<Entry, StoreError> {
    Ok(Entry { item: row.text()?, project: row.text()?, response: row.id()?, position: row.number()? })
}

fn is_at(entry: &Entry, mut row: Columns) -> bool {
    let mut array = || row.optional_bytes().unwrap_or_default();
    let (input, output) = (array(), array());
    let input_items = json::elements(&input).map_while(Result::ok).map(|range| &input[range]);
    let output_items = json::elements(&output).map_while(Result::ok).map(|range| &output[range]);
    let Ok(position) = usize::try_from(entry.position) else { return false };
    let id = input_items.chain(output_items).nth(position).and_then(item::id);
    id.is_some_and(|id| id.as_str() == entry.item)
}
