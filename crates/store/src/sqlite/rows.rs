//! Statements for as many rows as there happen to be, of which only a few texts exist: all of them stay prepared.

use sqlx::Arguments;
use sqlx::error::BoxDynError;
use sqlx::sqlite::SqliteArguments;

/// A statement with a part that is repeated for each row.
///
/// A text has room for a power of two; rows that are not there are null, and the statement leaves them out.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) head: &'static str,
    pub(super) row: &'static str,
    pub(super) tail: &'static str,
    /// The most rows of one text.
    pub(super) max: usize,
}

// === impl Rows ===

impl Rows {
    /// Takes as many values as one text has room for, and leaves the others.
    pub(super) fn take<T>(&self, values: &mut Vec<T>) -> Vec<T> {
        let rest = values.split_off(values.len().min(self.max));
        std::mem::replace(values, rest)
    }

    /// Appends the text that has room for this many values.
    pub(super) fn write(&self, values: usize, text: &mut String) {
        text.push_str(self.head);
        for n in 0..values.next_power_of_two() {
            text.push_str(if n == 0 { " " } else { "," });
            text.push_str(self.row);
        }
        text.push_str(self.tail);
    }

    /// Adds the arguments of the values, and nulls for the rows that are not there.
    pub(super) fn bind<T>(
        &self,
        values: &[T],
        arguments: &mut SqliteArguments,
        mut add: impl FnMut(&T, &mut SqliteArguments) -> Result<(), BoxDynError>,
    ) -> Result<(), sqlx::Error> {
        let columns = self.row.bytes().filter(|&b| b == b'?').count();
        let room = values.len().next_power_of_two();
        arguments.reserve(room * columns, 0);
        for value in values {
            add(value, arguments).map_err(sqlx::Error::Encode)?;
        }
        for _ in 0..(room - values.len()) * columns {
            arguments.add(None::<i64>).map_err(sqlx::Error::Encode)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_room_for_a_power_of_two() {
        let rows = Rows { head: "insert", row: "(?,?)", tail: " end", max: 4 };
        let text = |n| {
            let mut text = String::new();
            rows.write(n, &mut text);
            text
        };
        assert_eq!(text(1), "insert (?,?) end");
        assert_eq!(text(3), "insert (?,?),(?,?),(?,?),(?,?) end");
        assert_eq!(text(3), text(4));
        let mut arguments = SqliteArguments::default();
        rows.bind(&[7, 8, 9], &mut arguments, |n, row| row.add(*n).and_then(|()| row.add(0))).unwrap();
        assert_eq!(arguments.len(), 8);
    }

    #[test]
    fn values_beyond_the_most_wait_for_the_next_statement() {
        let rows = Rows { head: "", row: "?", tail: "", max: 4 };
        let mut values = vec![1, 2, 3, 4, 5];
        assert_eq!(rows.take(&mut values), [1, 2, 3, 4]);
        assert_eq!(rows.take(&mut values), [5]);
        assert!(rows.take(&mut values).is_empty());
    }
}
