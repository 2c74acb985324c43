//! What cargo has compiled for a target, by the messages of `cargo build --message-format=json`.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;

use crate::Fault;

#[derive(Deserialize)]
struct Message {
    reason: String,
    package_id: Option<String>,
    target: Option<Target>,
    #[serde(default)]
    filenames: Vec<String>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
}

/// The packages whose libraries were compiled for `triple`, and the one whose program or module they became, by their ids.
///
/// What runs while the others are compiled (macros, build scripts, and what these depend on) is compiled for the machine itself,
/// into a folder without the triple's name. So `--target` must have been given.
///
/// # Errors
/// When a line is no message, or no message is of the triple.
pub fn for_target(messages: &str, triple: &str) -> Result<BTreeSet<String>, Fault> {
    let mut built = BTreeSet::new();
    for (at, line) in messages.lines().enumerate() {
        let message: Message = serde_json::from_str(line)
            .map_err(|error| Fault::new(format!("messages of the build, line {}: {error}", at + 1)))?;
        let (Some(id), Some(target)) = (message.package_id, message.target) else { continue };
        if message.reason != "compiler-artifact" || target.kind.iter().any(|kind| kind == "custom-build") {
            continue;
        }
        if message.filenames.iter().any(|file| is_of(triple, file)) {
            built.insert(id);
        }
    }
    if built.is_empty() {
        return Err(Fault::new(format!(
            "messages of the build: nothing was compiled for {triple}; was --target given?"
        )));
    }
    Ok(built)
}

/// `.../TRIPLE/PROFILE/deps/FILE`, or without `deps` for what is no library.
fn is_of(triple: &str, file: &str) -> bool {
    let mut folders = Path::new(file).iter().rev().skip(1).filter(|folder| *folder != "deps");
    folders.nth(1).is_some_and(|folder| folder == triple)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_the_triple_tells_what_is_for_the_target() {
        let triple = "wasm32-unknown-unknown";
        assert!(is_of(triple, "/t/wasm32-unknown-unknown/wasm/deps/libserde-1.rmeta"));
        assert!(is_of(triple, "/t/wasm32-unknown-unknown/wasm/holdfast.wasm"));
        assert!(!is_of(triple, "/t/wasm/deps/libserde_derive-1.so"));
        assert!(!is_of(triple, "/wasm32-unknown-unknown/t/wasm/deps/libsyn-1.rmeta"), "the target folder's own name");
    }
}
