//! Whether the JSON Schema takes a policy document that the parser takes. Each document of the parser's own tests is held against
//! the schema beside the parser, with what it says of the wrong ones; this is for the documents that other tests are made with.

use std::sync::LazyLock;

use holdfast_policy::config::{self, schema};
use jsonschema::Validator;
use serde_json::Value;

static VALIDATOR: LazyLock<Result<Validator, String>> = LazyLock::new(|| {
    let schema: Value = serde_json::from_str(&schema::json_schema()).map_err(|error| error.to_string())?;
    jsonschema::draft7::new(&schema).map_err(|error| error.to_string())
});

/// What is wrong with a document: what the parser says, or, where that has nothing to say, the schema.
#[must_use]
pub fn refusal(document: &str) -> Option<String> {
    config::parse(document.as_bytes()).err().map(|errors| errors.to_string()).or_else(|| refusal_by_schema(document))
}

/// That the schema takes what the parser takes.
///
/// # Panics
/// Where it does not.
#[track_caller]
pub fn assert_no_stricter(document: &str) {
    if config::parse(document.as_bytes()).is_ok() {
        assert_eq!(refusal_by_schema(document), None, "the schema refuses what the parser takes: {document}");
    }
}

fn refusal_by_schema(document: &str) -> Option<String> {
    // Some editors put a byte-order mark before JSON.
    let document = document.strip_prefix('\u{feff}').unwrap_or(document);
    match (&*VALIDATOR, serde_json::from_str(document)) {
        (Ok(validator), Ok(value)) => validator.validate(&value).err().map(|error| format!("the schema says: {error}")),
        (Err(error), _) => Some(format!("the schema is none: {error}")),
        (_, Err(error)) => Some(format!("not JSON: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_either_refuses_is_told() {
        assert_eq!(refusal("\u{feff}{\"policies\": [{\"name\": \"a\"}]}"), None);
        assert!(refusal(r#"{"policies": [{"name": "A"}]}"#).is_some_and(|said| said.contains("policies[0].name")));
        assert!(refusal_by_schema(r#"{"policies": [{"name": "A"}]}"#).is_some_and(|said| said.contains("\"A\"")));
        assert_no_stricter("{");
        assert_no_stricter(r#"{"policies": []}"#);
    }
}
