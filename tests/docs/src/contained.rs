//! Whether a fragment of a configuration stands in a whole one.

use serde_json::Value;

/// Whether `part` stands somewhere in `whole`, at any depth.
#[must_use]
pub fn anywhere(whole: &Value, part: &Value) -> bool {
    here(whole, part)
        || match whole {
            Value::Object(fields) => fields.values().any(|field| anywhere(field, part)),
            Value::Array(items) => items.iter().any(|item| anywhere(item, part)),
            _ => false,
        }
}

/// Whether `whole` says all that `part` says. An object may have more fields, and a list more items, in the same order. A
/// text that holds JSON is compared by what it holds.
fn here(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(name, part)| whole.get(name).is_some_and(|whole| here(whole, part)))
        }
        (Value::Array(whole), Value::Array(part)) => {
            let mut rest = whole.iter();
            part.iter().all(|part| rest.any(|whole| here(whole, part)))
        }
        (Value::String(whole), Value::String(part)) => {
            whole == part || object_in(whole).zip(object_in(part)).is_some_and(|(whole, part)| here(&whole, &part))
        }
        (whole, part) => whole == part,
    }
}

/// The object that a text holds as JSON.
#[must_use]
pub fn object_in(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok().filter(Value::is_object)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_fragment_may_leave_out_fields_and_items_and_stand_at_any_depth() {
        let whole = json!({"a": [{"b": 1, "c": 2}, {"b": 3}, 4], "d": {"e": {"f": "x"}}});
        for part in [
            json!({}),
            json!({"b": 3}),
            json!([{"b": 1}, 4]),
            json!({"d": {"e": {}}}),
            json!({"f": "x"}),
            json!({"a": [{"c": 2}]}),
        ] {
            assert!(anywhere(&whole, &part), "{part}");
        }
        for part in
            [json!({"b": 2}), json!([4, {"b": 1}]), json!({"d": {"f": "x"}}), json!({"f": "y"}), json!({"g": 1})]
        {
            assert!(!anywhere(&whole, &part), "{part}");
        }
    }

    #[test]
    fn policies_within_a_configuration_are_compared_by_content() {
        let whole = json!({"value": "{\"policies\": [{\"name\": \"a\", \"retry\": {}}]}\n"});
        assert!(anywhere(&whole, &json!({"value": "{\"policies\":[{\"name\":\"a\"}]}"})));
        assert!(!anywhere(&whole, &json!({"value": "{\"policies\":[{\"name\":\"b\"}]}"})));
    }
}
