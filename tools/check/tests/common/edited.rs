//! Configurations with one thing wrong: an edit of `fixtures/rules/base.yaml`, written as a diff without line numbers.

use std::fs;
use std::path::Path;

/// What Envoy does with an edited configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It starts.
    Taken,
    /// It does not.
    Refused,
    /// It crashes.
    Crash,
}

/// An edited configuration.
#[derive(Debug)]
pub struct Edited {
    /// The rule that it breaks, which is the file's name up to a dot.
    pub rule: String,
    /// The file's name.
    pub name: String,
    /// What Envoy does with it.
    pub fate: Fate,
    /// Its text.
    pub text: String,
}

/// All edits in a folder, by their names.
pub fn all(folder: &Path) -> Vec<Edited> {
    let base = fs::read_to_string(folder.join("base.yaml")).unwrap();
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let edits = files.iter().filter(|path| path.extension().is_some_and(|end| end == "edit"));
    edits
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let rule = name.split('.').next().unwrap().to_owned();
            let edit = fs::read_to_string(path).unwrap();
            let (head, edit) = edit.split_once('\n').unwrap();
            let fate = match head {
                "# Envoy takes it." => Fate::Taken,
                "# Envoy refuses it." => Fate::Refused,
                "# Envoy crashes." => Fate::Crash,
                other => panic!("{name}: {other}"),
            };
            let text = edit.split("\n\n").fold(base.clone(), |text, hunk| applied(&text, hunk, &name));
            Edited { rule, name, fate, text }
        })
        .collect()
}

fn applied(text: &str, hunk: &str, name: &str) -> String {
    let side = |without: char| -> String {
        let lines = hunk.lines().filter(|line| !line.starts_with(without));
        lines.map(|line| format!("{}\n", line.get(1..).unwrap())).collect()
    };
    let (from, to) = (side('+'), side('-'));
    assert_eq!(text.matches(&from).count(), 1, "{name}: the base has this once:\n{from}");
    text.replace(&from, &to)
}
