//! What became of a task that somebody waited for.

use std::panic::resume_unwind;

use tokio::task::JoinError;

/// Its result; none where it was given up, for the program is about to end. A panic of it goes on in who waited.
pub(crate) fn joined<T>(ended: Result<T, JoinError>) -> Option<T> {
    match ended.map_err(JoinError::try_into_panic) {
        Ok(result) => Some(result),
        Err(Ok(panic)) => resume_unwind(panic),
        Err(Err(_)) => None,
    }
}
