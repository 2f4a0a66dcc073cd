//! A connection that goes back to its pool only when it is given back. sqlx does not know of the answer to a `COPY` that is
//! still to come where its caller was given up meanwhile: whoever had the connection next would take that for its own.

use std::ops::{Deref, DerefMut};

use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, PgPool, Postgres};

/// A connection on loan: closed where it is dropped.
#[derive(Debug)]
pub(crate) struct Loan {
    connection: PoolConnection<Postgres>,
    is_back: bool,
}

impl Loan {
    pub(crate) async fn of(pool: &PgPool) -> Result<Self, sqlx::Error> {
        Ok(Self {
            connection: pool.acquire().await?,
            is_back: false,
        })
    }

    /// Whatever was done with it has come to its end, well or not.
    pub(crate) fn give_back(mut self) {
        self.is_back = true;
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if !self.is_back {
            self.connection.close_on_drop();
        }
    }
}

impl Deref for Loan {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Loan {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}
