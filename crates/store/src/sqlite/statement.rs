//! Statements that are written once for both engines.

use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, Row, ToSql, params_from_iter};
use uuid::Uuid;

use crate::StoreError;
use crate::sql::{Cell, Columns, Kind, Query, Statement};

/// Whether the statement changed a row.
pub(super) fn execute(connection: &Connection, statement: &Statement) -> rusqlite::Result<bool> {
    for (index, statement) in statement.with_followers().enumerate() {
        let arguments = statement.arguments.iter().map(|(value, _)| value);
        let rows = connection.prepare_cached(statement.text)?.execute(params_from_iter(arguments))?;
        if index == 0 && rows == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(super) fn query(connection: &Connection, query: &Query) -> Result<Vec<Columns>, StoreError> {
    let mut statement = connection.prepare_cached(query.text)?;
    let arguments = query.arguments.iter().map(|(value, _)| value);
    let rows = statement.query_map(params_from_iter(arguments), |row| {
        let cells = query.columns.iter().enumerate().map(|(index, kind)| cell(row, index, *kind));
        cells.collect::<rusqlite::Result<_>>().map(Columns::new)
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn cell(row: &Row<'_>, index: usize, kind: Kind) -> rusqlite::Result<Cell> {
    if row.get_ref(index)? == ValueRef::Null {
        return Ok(Cell::Null);
    }
    Ok(match kind {
        Kind::Id => Cell::Id(row.get::<_, Uuid>(index)?),
        Kind::Text => Cell::text(row.get(index)?),
        Kind::Number => Cell::Number(row.get(index)?),
        Kind::Bytes => Cell::Bytes(row.get(index)?),
    })
}

impl ToSql for Cell {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Null => ToSqlOutput::Owned(Value::Null),
            Self::Id(id) => ToSqlOutput::Borrowed(ValueRef::Blob(id.as_bytes())),
            Self::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            Self::Number(number) => ToSqlOutput::Owned(Value::Integer(*number)),
            Self::Bytes(bytes) => ToSqlOutput::Borrowed(ValueRef::Blob(bytes)),
        })
    }
}
