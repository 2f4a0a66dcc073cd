//! The OpenAPI document: it says all that the service does, and the service does all that it says. `scripts/schemathesis`
//! makes up thousands of requests from it; here is what those leave to chance.

mod answers;
mod coverage;
mod page;

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::TestApp;

/// An operation of the document.
#[derive(Debug)]
struct Operation {
    id: String,
    method: Method,
    /// As the document has it, with its parameters in braces.
    path: String,
    /// By status; references followed.
    answers: BTreeMap<u16, Value>,
    takes_body: bool,
    /// Asked with a JWT.
    is_of_members: bool,
}

fn document() -> Value {
    serde_json::from_str(featbit_tokens::http::document().unwrap()).unwrap()
}

fn operations(document: &Value) -> Vec<Operation> {
    let paths = document["paths"].as_object().unwrap();
    paths
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().unwrap();
            methods.iter().map(move |(method, operation)| Operation {
                id: operation["operationId"].as_str().unwrap().to_owned(),
                method: method.to_uppercase().parse().unwrap(),
                path: path.clone(),
                answers: answers_of(document, operation),
                takes_body: !operation["requestBody"].is_null(),
                is_of_members: operation["security"] == json!([{ "jwt": [] }]),
            })
        })
        .collect()
}

fn answers_of(document: &Value, operation: &Value) -> BTreeMap<u16, Value> {
    let answers = operation["responses"].as_object().unwrap();
    answers
        .iter()
        .map(|(status, answer)| (status.parse().unwrap(), followed(document, answer).clone()))
        .collect()
}

/// What a reference stands for, or the thing itself.
fn followed<'a>(document: &'a Value, thing: &'a Value) -> &'a Value {
    match thing["$ref"].as_str() {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).unwrap(),
        None => thing,
    }
}

/// A schema of the document that can be held against something.
fn validator(document: &Value, schema: &Value) -> jsonschema::Validator {
    let whole = json!({ "allOf": [schema], "components": document["components"] });
    jsonschema::options()
        .should_validate_formats(true)
        .build(&whole)
        .unwrap()
}

impl Operation {
    /// Its path with this in the place of a token's id, and the name of a file that is there.
    fn path_of(&self, id: &str) -> String {
        self.path.replace("{id}", id).replace("{file}", "index.css")
    }

    fn request(&self, app: &TestApp, id: &str) -> reqwest::RequestBuilder {
        app.request(self.method.clone(), &self.path_of(id))
    }
}
