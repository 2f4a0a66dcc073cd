//! Rows into and out of the database in the binary format of `COPY`, which is the fastest way where there are many.

mod into;
mod out;

pub(crate) use into::NewRows;
pub(crate) use out::{Copied, CopiedRow, CopyOut, StoredRow};

/// Signature, flags, and the length of an extension that is not there.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// In place of a row's number of columns.
const TRAILER: [u8; 2] = (-1_i16).to_be_bytes();
/// In place of a value's length.
const NULL: [u8; 4] = (-1_i32).to_be_bytes();
