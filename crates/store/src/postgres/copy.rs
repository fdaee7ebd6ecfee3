//! A PostgreSQL database as one end of a copy.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::TryStreamExt;
use tokio::task::JoinHandle;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error};

use super::connect::{Connector, Opened};
use super::error::{QueryError, corrupt};
use super::insert::Column;
use super::schema;
use super::statement::{Argument, argument, cell, columns, value};
use crate::StoreError;
use crate::copy::{Bounds, Key, Row, Side, Table};
use crate::migration::outdated;
use crate::sql::{Cell, Columns, Kind, Query};
use crate::url::PostgresTarget;

/// Longer than any page takes.
const QUERY_TIMEOUT: Duration = Duration::from_mins(10);
/// Begins one snapshot for the whole copy, which may take hours, and so lifts the server's limits on long transactions. A pooler
/// reserves a connection for it until it ends.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
     SELECT set_config(name, '0', true) FROM pg_settings WHERE name IN \
     ('statement_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')";

/// A connection that is used only for copying.
struct PostgresSide {
    client: Client,
    /// Carries the connection's bytes; ends with the client.
    driver: JoinHandle<()>,
}

/// Reads one snapshot of the database.
pub(crate) async fn source(target: &PostgresTarget) -> Result<Box<dyn Side>, StoreError> {
    let connector = Connector::new(target)?;
    if let Some(newest) = schema::pending(&connector).await?.last() {
        return Err(outdated(&target.to_string(), newest));
    }
    let side = PostgresSide::connect(&connector).await?;
    within(side.client.batch_execute(BEGIN)).await?;
    Ok(Box::new(side))
}

/// Brings the schema up to date first.
pub(crate) async fn target(target: &PostgresTarget) -> Result<Box<dyn Side>, StoreError> {
    let connector = Connector::new(target)?;
    schema::migrate(&connector).await?;
    Ok(Box::new(PostgresSide::connect(&connector).await?))
}

async fn within<T>(query: impl Future<Output = Result<T, Error>>) -> Result<T, StoreError> {
    let answered = tokio::time::timeout(QUERY_TIMEOUT, query).await;
    Ok(answered.map_err(|_| QueryError::Deadline(QUERY_TIMEOUT))?.map_err(QueryError::from)?)
}

/// Selects the keys of the next rows, and the size of each row.
pub(super) fn keys_statement(table: &Table, is_first: bool) -> String {
    let varying = table.columns.iter().filter(|(_, kind)| matches!(kind, Kind::Text | Kind::Bytes));
    let size = |(column, _): &(&str, Kind)| format!(" + coalesce(octet_length({column}), 0)::bigint");
    let sizes: String = varying.map(size).collect();
    let after = if is_first { String::new() } else { format!(" WHERE {}", after_key(table)) };
    let key: Vec<String> = (0..table.key).map(|index| column(table, index)).collect();
    format!(
        "SELECT {}, 0::bigint{sizes} FROM {}{after} ORDER BY {} LIMIT $1::bigint",
        key.join(", "),
        table.name,
        table.key_list(),
    )
}

/// Selects the rows up to a key.
pub(super) fn page_statement(table: &Table, is_first: bool) -> String {
    let columns: Vec<String> = (0..table.columns.len()).map(|index| column(table, index)).collect();
    let upper = if is_first { 1 } else { 2 + table.key };
    let after =
        if is_first { String::new() } else { format!("{} AND $1::bigint > 0 AND ", after_key(table)) };
    format!(
        "SELECT {} FROM {} WHERE {after}({key}) <= ({}) ORDER BY {key}",
        columns.join(", "),
        table.name,
        key_arguments(table, upper),
        key = table.key_list(),
    )
}

/// A condition: after the key that begins with the second argument.
fn after_key(table: &Table) -> String {
    format!("({}) > ({})", table.key_list(), key_arguments(table, 2))
}

/// Placeholders for a key, of which this is the first.
fn key_arguments(table: &Table, first: usize) -> String {
    let argument =
        |(index, (_, kind)): (usize, &(&str, Kind))| format!("${}::{}", first + index, sql_type(*kind));
    table.key_columns().iter().enumerate().map(argument).collect::<Vec<_>>().join(", ")
}

pub(super) fn insert_statement(table: &Table) -> String {
    let arrays: Vec<String> = table
        .columns
        .iter()
        .enumerate()
        .map(|(index, (_, kind))| format!("${}::{}[]", index + 1, sql_type(*kind)))
        .collect();
    format!(
        "INSERT INTO {} ({}) SELECT * FROM unnest({}) ON CONFLICT DO NOTHING",
        table.name,
        table.column_list(),
        arrays.join(", ")
    )
}

/// A column in a select list, with all numbers as one type.
fn column(table: &Table, index: usize) -> String {
    let (name, kind) = table.columns[index];
    if kind == Kind::Number { format!("{name}::bigint") } else { name.to_owned() }
}

fn sql_type(kind: Kind) -> &'static str {
    match kind {
        Kind::Id => "uuid",
        Kind::Text => "text",
        Kind::Number => "bigint",
        Kind::Bytes => "bytea",
    }
}

// === impl PostgresSide ===

impl PostgresSide {
    async fn connect(connector: &Connector) -> Result<Self, StoreError> {
        let Opened { client, driver } = connector.connect().await?;
        let driver = tokio::spawn(async move {
            // Callers that wait for a query get the error.
            drop(driver.await);
        });
        Ok(Self { client, driver })
    }

    /// The key of the last row of the page that comes after `after`.
    async fn last_key(
        &self,
        table: &'static Table,
        after: Option<&Key>,
        bounds: Bounds,
    ) -> Result<Option<Key>, StoreError> {
        let limit = i64::try_from(bounds.rows).unwrap_or(i64::MAX);
        let mut arguments: Vec<Argument<'_>> = vec![(&limit, Type::INT8)];
        arguments.extend(after.into_iter().flat_map(|after| key(table, after)));
        let text = keys_statement(table, after.is_none());
        let rows = within(self.client.query_typed(&text, &arguments)).await?;
        let mut last = None;
        let mut bytes = 0;
        for row in rows {
            let key = (0..table.key)
                .map(|index| cell(&row, index, table.columns[index].1))
                .collect::<Result<_, _>>()?;
            let size = row.try_get::<_, i64>(table.key).map_err(|error| corrupt(&error))?;
            bytes += usize::try_from(size).unwrap_or(0);
            if last.is_some() && bytes > bounds.bytes {
                break;
            }
            last = Some(key);
        }
        Ok(last)
    }
}

#[async_trait]
impl Side for PostgresSide {
    async fn count(&self, table: &'static Table) -> Result<u64, StoreError> {
        let row = within(self.client.query_typed(&table.count_statement(), &[])).await?;
        let count: i64 = row[0].try_get(0).map_err(|error| corrupt(&error))?;
        Ok(count.unsigned_abs())
    }

    async fn page(
        &self,
        table: &'static Table,
        after: Option<Key>,
        bounds: Bounds,
    ) -> Result<Vec<Row>, StoreError> {
        let Some(last) = self.last_key(table, after.as_ref(), bounds).await? else { return Ok(Vec::new()) };
        let text = page_statement(table, after.is_none());
        let mut arguments: Vec<Argument<'_>> = Vec::with_capacity(1 + 2 * table.key);
        if let Some(after) = &after {
            arguments.push((&1_i64, Type::INT8));
            arguments.extend(key(table, after));
        }
        arguments.extend(key(table, &last));
        let rows = within(self.client.query_typed(&text, &arguments)).await?;
        let row = |row| -> Result<Row, StoreError> {
            let cells = (0..table.columns.len()).map(|index| cell(&row, index, table.columns[index].1));
            cells.collect::<Result<_, _>>().map(Row)
        };
        rows.into_iter().map(row).collect()
    }

    async fn insert(&self, table: &'static Table, rows: Vec<Row>) -> Result<(), StoreError> {
        let mut columns = vec![Vec::with_capacity(rows.len()); table.columns.len()];
        for row in rows {
            for (column, cell) in columns.iter_mut().zip(row.0) {
                column.push(cell);
            }
        }
        let columns: Vec<Column<'static>> =
            columns.into_iter().zip(table.columns).map(|(cells, (_, kind))| array(*kind, cells)).collect();
        let inserting = async {
            let rows = self.client.query_typed_raw(&insert_statement(table), columns).await?;
            rows.try_collect::<Vec<_>>().await
        };
        within(inserting).await.map(|_| ())
    }

    async fn select(&self, query: Query) -> Result<Vec<Columns>, StoreError> {
        let arguments: Vec<Argument<'_>> = query.arguments.iter().map(argument).collect();
        let rows = within(self.client.query_typed(query.text, &arguments)).await?;
        rows.iter().map(|row| columns(&query, row)).collect()
    }

    async fn renew(&self) -> Result<(), StoreError> {
        within(self.client.batch_execute(&format!("COMMIT; {BEGIN}"))).await
    }

    /// The transaction of a source ends with its connection.
    async fn close(&self) {
        self.driver.abort();
    }
}

fn key<'a>(table: &'static Table, key: &'a [Cell]) -> impl Iterator<Item = Argument<'a>> {
    key.iter().zip(table.key_columns()).map(|(cell, (_, kind))| value(cell, *kind))
}

/// One column of many rows.
fn array(kind: Kind, cells: Vec<Cell>) -> Column<'static> {
    fn of<T: ToSql + Sync + Send + 'static>(
        cells: Vec<Cell>,
        value: impl Fn(Cell) -> Option<T>,
    ) -> Box<dyn ToSql + Sync + Send> {
        Box::new(cells.into_iter().map(value).collect::<Vec<Option<T>>>())
    }
    match kind {
        Kind::Id => {
            let id = |cell| if let Cell::Id(id) = cell { Some(id) } else { None };
            (of(cells, id), Type::UUID_ARRAY)
        }
        Kind::Text => {
            let text = |cell| if let Cell::Text(text) = cell { Some(text) } else { None };
            (of(cells, text), Type::TEXT_ARRAY)
        }
        Kind::Number => {
            let number = |cell| if let Cell::Number(number) = cell { Some(number) } else { None };
            (of(cells, number), Type::INT8_ARRAY)
        }
        Kind::Bytes => {
            let bytes = |cell| if let Cell::Bytes(bytes) = cell { Some(bytes) } else { None };
            (of(cells, bytes), Type::BYTEA_ARRAY)
        }
    }
}
