//! What PostgreSQL can hold as text: everything but the NUL character. Whoever takes something from outside looks before it
//! becomes part of a request.

use serde_json::Value;

/// Is there a NUL character in any text of it?
#[must_use]
pub fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(fields) => fields
            .iter()
            .any(|(name, value)| name.contains('\0') || has_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}
