//! Nothing: see `benches/decision.rs`.
