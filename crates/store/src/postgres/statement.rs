//! Statements that are written once for both engines.

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, Row};
use uuid::Uuid;

use super::error::corrupt;
use crate::StoreError;
use crate::sql::{Cell, Columns, Kind, Query, Statement};

pub(super) type Argument<'a> = (&'a (dyn ToSql + Sync), Type);

/// Whether the statement changed a row.
pub(super) async fn execute(client: &Client, statement: &Statement) -> Result<bool, Error> {
    for (index, statement) in statement.with_followers().enumerate() {
        let arguments: Vec<Argument<'_>> = statement.arguments.iter().map(argument).collect();
        let rows = client.execute_typed(statement.text, &arguments).await?;
        if index == 0 && rows == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(super) fn columns(query: &Query, row: &Row) -> Result<Columns, StoreError> {
    let cells = query.columns.iter().enumerate().map(|(index, kind)| cell(row, index, *kind));
    cells.collect::<Result<_, _>>().map(Columns::new)
}

pub(super) fn argument((cell, kind): &(Cell, Kind)) -> Argument<'_> {
    value(cell, *kind)
}

pub(super) fn value(cell: &Cell, kind: Kind) -> Argument<'_> {
    let value: &(dyn ToSql + Sync) = match cell {
        Cell::Id(id) => id,
        Cell::Text(text) => text,
        Cell::Number(number) => number,
        Cell::Bytes(bytes) => bytes,
        Cell::Null => match kind {
            Kind::Id => &None::<Uuid>,
            Kind::Text => &None::<String>,
            Kind::Number => &None::<i64>,
            Kind::Bytes => &None::<Vec<u8>>,
        },
    };
    (value, type_of(kind))
}

fn type_of(kind: Kind) -> Type {
    match kind {
        Kind::Id => Type::UUID,
        Kind::Text => Type::TEXT,
        Kind::Number => Type::INT8,
        Kind::Bytes => Type::BYTEA,
    }
}

pub(super) fn cell(row: &Row, index: usize, kind: Kind) -> Result<Cell, StoreError> {
    let cell = match kind {
        Kind::Id => row.try_get::<_, Option<Uuid>>(index).map(|id| id.map(Cell::Id)),
        Kind::Text => row.try_get::<_, Option<String>>(index).map(|text| text.map(Cell::Text)),
        Kind::Number => row.try_get::<_, Option<i64>>(index).map(|number| number.map(Cell::Number)),
        Kind::Bytes => row.try_get::<_, Option<Vec<u8>>>(index).map(|bytes| bytes.map(Cell::Bytes)),
    };
    Ok(cell.map_err(|error| corrupt(&error))?.unwrap_or(Cell::Null))
}
