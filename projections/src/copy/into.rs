//! Rows for a table that has none of them. Each value is written as sqlx writes it for the column's type.

use sqlx::encode::IsNull;
use sqlx::postgres::PgArgumentBuffer;
use sqlx::{Encode, PgConnection, Postgres};

use super::{HEADER, NULL, TRAILER};
use crate::runner::ProjectError;

/// Bytes that are sent at once, and no piece of memory is much larger: one that grows with its rows is moved again and again.
const PIECE: usize = 128 * 1024;
/// Before a value of type jsonb.
const JSONB_VERSION: char = '\u{1}';

/// New rows of one table.
#[derive(Debug)]
pub(crate) struct NewRows {
    table: &'static str,
    columns: &'static str,
    width: usize,
    /// Those before the buffer's.
    pieces: Vec<PgArgumentBuffer>,
    buffer: PgArgumentBuffer,
}

impl NewRows {
    /// None yet, of these columns, with a comma between them.
    pub(crate) fn of(table: &'static str, columns: &'static str) -> Self {
        let mut buffer = PgArgumentBuffer::default();
        buffer.extend_from_slice(HEADER);
        Self {
            table,
            columns,
            width: columns.split(',').count(),
            pieces: Vec::new(),
            buffer,
        }
    }

    /// Begins the next row; a value follows for each column.
    pub(crate) fn begin(&mut self) -> Result<(), ProjectError> {
        if self.buffer.len() >= PIECE {
            self.pieces.push(std::mem::take(&mut self.buffer));
        }
        let width = i16::try_from(self.width)?;
        self.buffer.extend_from_slice(&width.to_be_bytes());
        Ok(())
    }

    /// The next value of a row. JSON is written as its text.
    pub(crate) fn put<'v>(&mut self, value: impl Encode<'v, Postgres>) -> Result<(), ProjectError> {
        let at = self.buffer.len();
        self.buffer.extend_from_slice(&NULL);
        let is_null = value.encode(&mut self.buffer).map_err(sqlx::Error::Encode)?;
        let begin = at.saturating_add(NULL.len());
        if let IsNull::No = is_null {
            let length = i32::try_from(self.buffer.len().saturating_sub(begin))?;
            if let Some(place) = self.buffer.get_mut(at..begin) {
                place.copy_from_slice(&length.to_be_bytes());
            }
        }
        Ok(())
    }

    /// The next value, of type jsonb.
    pub(crate) fn put_jsonb(&mut self, text: &str) -> Result<(), ProjectError> {
        self.put(format!("{JSONB_VERSION}{text}"))
    }

    /// Writes them to their table, in the schema that is searched first. Who gives it up can't use the connection any more: a
    /// pool's has to be on [`Loan`](crate::loan::Loan).
    pub(crate) async fn store(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        if self.pieces.is_empty() && self.buffer.len() == HEADER.len() {
            return Ok(());
        }
        let (table, columns) = (self.table, self.columns);
        let statement = format!("copy {table} ({columns}) from stdin (format binary)");
        let mut copy = connection.copy_in_raw(&statement).await?;
        for piece in self.pieces.iter().chain([&self.buffer]) {
            copy.send(piece.as_slice()).await?;
        }
        copy.send(TRAILER.as_slice()).await?;
        copy.finish().await?;
        Ok(())
    }
}
