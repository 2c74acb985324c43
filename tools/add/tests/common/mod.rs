//! What the tests of the program have in common.

// Not every test uses all of it.
#![allow(dead_code)]

use std::path::{Path, PathBuf};

use serde_norway::Value;

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The arguments in the first lines of a sample; the quoted ones have no space in them.
pub fn command(text: &str) -> Option<Vec<String>> {
    let mut lines = text.lines();
    let mut command = lines.next()?.strip_prefix("# ./build.sh add ")?.to_owned();
    while let Some(rest) = command.strip_suffix('\\') {
        command = rest.to_owned() + lines.next()?.strip_prefix('#')?;
    }
    Some(command.split_whitespace().map(|word| word.trim_matches('\'').to_owned()).collect())
}

/// The documents of a text that hold something.
pub fn documents(text: &str) -> Vec<Value> {
    let documents = serde_norway::Deserializer::from_str(text);
    let read = documents.map(|document| <Value as serde::Deserialize>::deserialize(document).unwrap());
    read.filter(|value| !value.is_null()).collect()
}
