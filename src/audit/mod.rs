//! The log as evidence: its chain of hashes recomputed, exports that can be checked without the database, and signed
//! checkpoints that it is held against. Nothing here writes to the log.

mod chain;
mod checkpoint;
mod directory;
mod export;
mod read;
mod signer;

pub use chain::{Chain, Fault, Hash, Link};
pub use checkpoint::{Checkpoint, KeyError, SigningKey, VerifyingKeys};
pub use directory::{Checkpoints, DirectoryError};
pub use export::{ExportError, Line, LineError, export};
pub use read::{ReadError, read};
pub use signer::{Signed, Signer, SignerConfig};
