//! The policy documents in the repository.

use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::Deserialize;
use serde_json::Value;

use crate::contained::object_in;

/// Where none are: what is built, what is downloaded, and the schema itself.
const NOT_OURS: [&str; 5] = [".git", ".cache", "dist", "target", "policy.schema.json"];

/// The documents in configurations and in source, each with its file.
///
/// # Errors
/// Where a file or a directory cannot be read.
pub fn documents(root: &Path) -> io::Result<Vec<(PathBuf, String)>> {
    let (mut documents, mut directories) = (Vec::new(), vec![root.to_owned()]);
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if NOT_OURS.contains(&name) || path.is_symlink() {
                continue;
            }
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let found = match path.extension().and_then(|extension| extension.to_str()) {
                Some("rs") => in_source(&fs::read_to_string(&path)?),
                Some("json") => in_values(serde_json::Deserializer::from_str(&fs::read_to_string(&path)?).into_iter()),
                Some("yaml") => {
                    let text = fs::read_to_string(&path)?;
                    in_values(serde_norway::Deserializer::from_str(&text).map(Value::deserialize))
                }
                _ => Vec::new(),
            };
            documents.extend(found.into_iter().map(|document| (path.clone(), document)));
        }
    }
    Ok(documents)
}

/// Those in the values of a file, up to the first that cannot be read: a chart has templates.
fn in_values<E>(values: impl Iterator<Item = Result<Value, E>>) -> Vec<String> {
    values.map_while(Result::ok).flat_map(|value| in_value(&value)).collect()
}

/// Those in a value: itself, what is in it, and what is in its texts.
fn in_value(value: &Value) -> Vec<String> {
    match value {
        Value::Object(_) if is_document(value) => vec![value.to_string()],
        Value::Object(fields) => fields.values().flat_map(in_value).collect(),
        Value::Array(items) => items.iter().flat_map(in_value).collect(),
        Value::String(text) => object_in(text).filter(is_document).map(|_| text.clone()).into_iter().collect(),
        _ => Vec::new(),
    }
}

/// Envoy has lists of policies too.
fn is_document(value: &Value) -> bool {
    let policies = value.get("policies").and_then(Value::as_array);
    policies.is_some_and(|policies| policies.iter().all(|policy| policy.get("name").is_some()))
}

/// Those that are written out as JSON.
fn in_source(text: &str) -> Vec<String> {
    let starts = text.match_indices("{\"policies\"").map(|(at, _)| at);
    let documents = starts.filter_map(|at| {
        let mut values = serde_json::Deserializer::from_str(text.get(at..)?).into_iter::<Value>();
        let value = values.next()?.ok()?;
        let length = values.byte_offset();
        is_document(&value).then(|| text.get(at..at + length).map(str::to_owned))?
    });
    documents.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_found_wherever_they_are() {
        let source =
            r##"let a = json!({"policies": [{"name": "a"}]}); let b = r#"{"policies": [{"name": "b"}]}"#; x("{}")"##;
        assert_eq!(in_source(source), [r#"{"policies": [{"name": "a"}]}"#, r#"{"policies": [{"name": "b"}]}"#]);
        let value =
            serde_json::json!({"a": ["{\"policies\": []}", {"policies": [{"name": 1}]}], "policies": [{"typed": 1}]});
        assert_eq!(in_value(&value), ["{\"policies\": []}", r#"{"policies":[{"name":1}]}"#]);
    }
}
