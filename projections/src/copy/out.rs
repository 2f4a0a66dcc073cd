//! Rows out of the database, many at once: their bytes are kept as they come, and a value is made of them where it is read.
//! What reads a row does not care whether it came this way or by a query.

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};
use chrono::{DateTime, Utc};
use futures_util::TryStreamExt;
use futures_util::stream::BoxStream;
use sqlx::error::{BoxDynError, UnexpectedNullError};
use sqlx::postgres::PgRow;
use sqlx::{Decode, Error, PgConnection, Postgres, Row, Type};
use uuid::Uuid;

use super::{HEADER, NULL, TRAILER};

/// 2000-01-01, from which PostgreSQL counts, in microseconds since 1970.
const EPOCH: i64 = 946_684_800_000_000;

/// Bytes of a row that most rows don't exceed.
const ROOM: usize = 4096;

/// A row, whichever way it came.
pub(crate) trait StoredRow {
    /// A value of it, by its column's number.
    fn get<'r, T: Value<'r>>(&'r self, column: usize) -> Result<T, Error>;

    /// The same of type json: its text.
    fn json(&self, column: usize) -> Result<Option<&str>, Error>;
}

/// What can be read of a row, whichever way it came.
pub(crate) trait Value<'r>: Decode<'r, Postgres> + Type<Postgres> + FromCopied<'r> {}

impl<'r, T: Decode<'r, Postgres> + Type<Postgres> + FromCopied<'r>> Value<'r> for T {}

impl StoredRow for PgRow {
    fn get<'r, T: Value<'r>>(&'r self, column: usize) -> Result<T, Error> {
        self.try_get(column)
    }

    fn json(&self, column: usize) -> Result<Option<&str>, Error> {
        // JSON is sent as its text. By way of `Json` each string in it would be looked at for itself.
        self.try_get_unchecked(column)
    }
}

/// A row that was copied: the bytes of its values, none for null.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CopiedRow<'c, const N: usize>([Option<&'c [u8]>; N]);

impl<const N: usize> StoredRow for CopiedRow<'_, N> {
    fn get<'r, T: Value<'r>>(&'r self, column: usize) -> Result<T, Error> {
        let value = self.0.get(column).ok_or(Error::ColumnIndexOutOfBounds {
            index: column,
            len: N,
        })?;
        T::from_copied(*value).map_err(|source| Error::ColumnDecode {
            index: column.to_string(),
            source,
        })
    }

    fn json(&self, column: usize) -> Result<Option<&str>, Error> {
        self.get(column)
    }
}

/// Rows that were copied, all of them complete.
#[derive(Debug, Default)]
pub(crate) struct Copied {
    bytes: Bytes,
    rows: usize,
}

impl Copied {
    /// Of these values.
    #[cfg(test)]
    pub(crate) fn of(rows: impl Iterator<Item = Vec<Option<Vec<u8>>>>) -> Self {
        let mut copied = Self::default();
        let mut bytes = BytesMut::new();
        for row in rows {
            bytes.extend_from_slice(&i16::try_from(row.len()).unwrap().to_be_bytes());
            for value in row {
                let length = value
                    .as_ref()
                    .map_or(-1, |value| i32::try_from(value.len()).unwrap());
                bytes.extend_from_slice(&length.to_be_bytes());
                bytes.extend_from_slice(&value.unwrap_or_default());
            }
            copied.rows += 1;
        }
        copied.bytes = bytes.freeze();
        copied
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.rows
    }

    /// Takes rows off its beginning until one is not wanted.
    pub(crate) fn take_while<const N: usize>(
        &mut self,
        mut is_wanted: impl FnMut(&CopiedRow<'_, N>) -> Result<bool, Error>,
    ) -> Result<Self, Error> {
        let mut rest: &[u8] = &self.bytes;
        let (mut rows, mut left) = (0, rest.len());
        while let Some(row) = next_row(&mut rest)? {
            if !is_wanted(&row)? {
                break;
            }
            rows += 1;
            left = rest.len();
        }
        let taken = self.bytes.split_to(self.bytes.len().saturating_sub(left));
        self.rows = self.rows.saturating_sub(rows);
        Ok(Self { bytes: taken, rows })
    }

    /// All of them, each of so many columns.
    pub(crate) fn rows<const N: usize>(&self) -> impl Iterator<Item = Result<CopiedRow<'_, N>, Error>> {
        let mut rest: &[u8] = &self.bytes;
        std::iter::from_fn(move || next_row(&mut rest).transpose())
    }
}

/// What a query sends, to be taken in pieces. Who does not take all of it can't use the connection any more.
pub(crate) struct CopyOut<'c> {
    chunks: BoxStream<'c, Result<Bytes, Error>>,
    /// What has come and was not given away yet.
    buffer: BytesMut,
    is_past_header: bool,
    is_all: bool,
}

impl<'c> CopyOut<'c> {
    /// Of a query without parameters.
    pub(crate) async fn begin(connection: &'c mut PgConnection, query: &str) -> Result<Self, Error> {
        let statement = format!("copy ({query}) to stdout (format binary)");
        Ok(Self {
            chunks: connection.copy_out_raw(&statement).await?,
            buffer: BytesMut::new(),
            is_past_header: false,
            is_all: false,
        })
    }

    /// The next rows, of so many bytes or a little more or less, as they end; none where there is nothing more.
    pub(crate) async fn next(&mut self, mut bytes: usize) -> Result<Option<Copied>, Error> {
        loop {
            self.fill(bytes.max(HEADER.len())).await?;
            self.pass_header()?;
            let copied = self.take_rows()?;
            if copied.rows > 0 {
                return Ok(Some(copied));
            }
            if self.is_all {
                return Ok(None);
            }
            // A single row is larger.
            bytes = bytes.saturating_mul(2);
        }
    }

    async fn fill(&mut self, bytes: usize) -> Result<(), Error> {
        // At once: memory that grows is moved again and again.
        self.buffer
            .reserve(bytes.saturating_sub(self.buffer.len()).saturating_add(ROOM));
        while !self.is_all && self.buffer.len() < bytes {
            match self.chunks.try_next().await? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None => self.is_all = true,
            }
        }
        Ok(())
    }

    /// All that are complete.
    fn take_rows(&mut self) -> Result<Copied, Error> {
        let mut rest: &[u8] = &self.buffer;
        let mut rows = 0;
        while skip_row(&mut rest).is_some() {
            rows += 1;
        }
        if self.is_all && rest != TRAILER {
            return Err(malformed("it ends in the middle of a row"));
        }
        let length = self.buffer.len().saturating_sub(rest.len());
        Ok(Copied {
            bytes: self.buffer.split_to(length).freeze(),
            rows,
        })
    }

    fn pass_header(&mut self) -> Result<(), Error> {
        if self.is_past_header {
            return Ok(());
        }
        if !self.buffer.starts_with(HEADER) {
            return Err(malformed("it begins in another way"));
        }
        self.buffer.advance(HEADER.len());
        self.is_past_header = true;
        Ok(())
    }
}

impl fmt::Debug for CopyOut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CopyOut")
    }
}

fn malformed(what: &str) -> Error {
    Error::Protocol(format!("what COPY sends can't be read: {what}"))
}

/// Goes past a row; none where there is no complete one.
fn skip_row(rest: &mut &[u8]) -> Option<()> {
    let mut after = *rest;
    // Negative in the trailer.
    let columns = u16::try_from(i16::from_be_bytes(take(&mut after)?)).ok()?;
    for _ in 0..columns {
        next_value(&mut after)?;
    }
    *rest = after;
    Some(())
}

fn next_row<'c, const N: usize>(rest: &mut &'c [u8]) -> Result<Option<CopiedRow<'c, N>>, Error> {
    let Some(columns) = take(rest) else {
        return Ok(None);
    };
    if usize::try_from(i16::from_be_bytes(columns)) != Ok(N) {
        return Err(malformed("a row has another number of columns"));
    }
    let mut values = [None; N];
    for value in &mut values {
        *value = next_value(rest).ok_or_else(|| malformed("a row ends before its last column"))?;
    }
    Ok(Some(CopiedRow(values)))
}

/// The next value, which may be null; none where it is not complete.
fn next_value<'c>(rest: &mut &'c [u8]) -> Option<Option<&'c [u8]>> {
    let length: [u8; 4] = take(rest)?;
    if length == NULL {
        return Some(None);
    }
    let length = usize::try_from(i32::from_be_bytes(length)).ok()?;
    let (value, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(Some(value))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (bytes, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*bytes)
}

/// A value as `COPY` writes it, in the binary form of its type.
pub(crate) trait FromCopied<'r>: Sized {
    /// Of a value that is not null.
    fn from_bytes(bytes: &'r [u8]) -> Result<Self, BoxDynError>;

    /// Of any value.
    fn from_copied(value: Option<&'r [u8]>) -> Result<Self, BoxDynError> {
        Self::from_bytes(value.ok_or(UnexpectedNullError)?)
    }
}

impl<'r, T: FromCopied<'r>> FromCopied<'r> for Option<T> {
    fn from_bytes(bytes: &'r [u8]) -> Result<Self, BoxDynError> {
        T::from_bytes(bytes).map(Some)
    }

    fn from_copied(value: Option<&'r [u8]>) -> Result<Self, BoxDynError> {
        value.map(T::from_bytes).transpose()
    }
}

impl<'r> FromCopied<'r> for &'r [u8] {
    fn from_bytes(bytes: &'r [u8]) -> Result<Self, BoxDynError> {
        Ok(bytes)
    }
}

impl<'r> FromCopied<'r> for &'r str {
    fn from_bytes(bytes: &'r [u8]) -> Result<Self, BoxDynError> {
        Ok(std::str::from_utf8(bytes)?)
    }
}

impl FromCopied<'_> for String {
    fn from_bytes(bytes: &[u8]) -> Result<Self, BoxDynError> {
        Ok(std::str::from_utf8(bytes)?.to_owned())
    }
}

impl FromCopied<'_> for bool {
    fn from_bytes(bytes: &[u8]) -> Result<Self, BoxDynError> {
        Ok(<[u8; 1]>::try_from(bytes)? != [0])
    }
}

impl FromCopied<'_> for i32 {
    fn from_bytes(bytes: &[u8]) -> Result<Self, BoxDynError> {
        Ok(Self::from_be_bytes(bytes.try_into()?))
    }
}

impl FromCopied<'_> for i64 {
    fn from_bytes(bytes: &[u8]) -> Result<Self, BoxDynError> {
        Ok(Self::from_be_bytes(bytes.try_into()?))
    }
}

impl FromCopied<'_> for Uuid {
    fn from_bytes(bytes: &[u8]) -> Result<Self, BoxDynError> {
        Ok(Self::from_slice(bytes)?)
    }
}

impl FromCopied<'_> for DateTime<Utc> {
    fn from_bytes(bytes: &[u8]) -> Result<Self, BoxDynError> {
        let since_epoch = i64::from_bytes(bytes)?.checked_add(EPOCH);
        let time = since_epoch.and_then(Self::from_timestamp_micros);
        time.ok_or_else(|| "a time that is out of range".into())
    }
}

impl FromCopied<'_> for Vec<String> {
    /// An array of one dimension, or none where it is empty.
    fn from_bytes(mut bytes: &[u8]) -> Result<Self, BoxDynError> {
        let cut_off = || "an array that is cut off";
        let dimensions = i32::from_be_bytes(take(&mut bytes).ok_or_else(cut_off)?);
        // Whether there are nulls, and the type of its elements.
        let _: [u8; 8] = take(&mut bytes).ok_or_else(cut_off)?;
        if dimensions == 0 {
            return Ok(Self::new());
        }
        let length = i32::from_be_bytes(take(&mut bytes).ok_or_else(cut_off)?);
        // The number of its first element.
        let _: [u8; 4] = take(&mut bytes).ok_or_else(cut_off)?;
        if dimensions != 1 {
            return Err("an array of arrays".into());
        }
        (0..length)
            .map(|_| String::from_copied(next_value(&mut bytes).ok_or_else(cut_off)?))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `COPY` may cut its bytes anywhere: here after each of them.
    #[tokio::test]
    async fn rows_are_complete_however_they_come() {
        let mut sent = HEADER.to_vec();
        for number in 0..3_i32 {
            sent.extend_from_slice(&2_i16.to_be_bytes());
            sent.extend_from_slice(&4_i32.to_be_bytes());
            sent.extend_from_slice(&number.to_be_bytes());
            sent.extend_from_slice(&NULL);
        }
        sent.extend_from_slice(&TRAILER);
        for piece in 1..sent.len() {
            for bytes in [1, 20, 1000] {
                let found = all(&sent, piece, bytes).await.unwrap();
                assert_eq!(found, [(0, None), (1, None), (2, None)], "{piece} {bytes}");
            }
        }
        // Tried: without the look at the trailer.
        for end in 0..sent.len() {
            assert!(all(&sent[..end], 7, 20).await.is_err(), "cut off at {end}");
        }
    }

    async fn all(sent: &[u8], piece: usize, bytes: usize) -> Result<Vec<(i32, Option<Uuid>)>, Error> {
        let chunks: Vec<_> = sent
            .chunks(piece)
            .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
            .collect();
        let mut copy = CopyOut {
            chunks: Box::pin(futures_util::stream::iter(chunks)),
            buffer: BytesMut::new(),
            is_past_header: false,
            is_all: false,
        };
        let mut found = Vec::new();
        while let Some(copied) = copy.next(bytes).await? {
            for row in copied.rows::<2>() {
                let row = row?;
                found.push((row.get(0)?, row.get(1)?));
            }
        }
        Ok(found)
    }

    #[test]
    fn a_value_that_is_not_of_its_type_is_refused() {
        let row = CopiedRow([Some([0xff_u8, 0, 0].as_slice()), None]);
        assert!(row.get::<i32>(0).is_err());
        assert!(row.get::<i64>(0).is_err());
        assert!(row.get::<bool>(0).is_err());
        assert!(row.get::<&str>(0).is_err());
        assert!(row.get::<Uuid>(0).is_err());
        assert!(row.get::<Vec<String>>(0).is_err());
        assert!(row.get::<&str>(1).is_err(), "null");
        assert!(row.get::<&str>(2).is_err(), "no such column");
        assert_eq!(row.get::<&[u8]>(0).unwrap(), [0xff, 0, 0]);
        let infinity = i64::MAX.to_be_bytes();
        assert!(
            CopiedRow([Some(infinity.as_slice())])
                .get::<DateTime<Utc>>(0)
                .is_err()
        );
    }
}
