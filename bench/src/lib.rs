//! What `scripts/bench` measures with: installations of any size, made through the real appender, and servers to be held
//! against. Never shipped; nothing in the service knows of it.

pub mod draw;
pub mod life;
pub mod lives;
pub mod membership;
pub mod organization;
