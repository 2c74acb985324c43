//! Traces of named scenarios, as committed text.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::host::Host;
use crate::seat::Seat;
use crate::thread::Thread;

/// What happened, line by line, with the time since the run began.
#[derive(Debug, Default)]
pub struct Trace {
    text: String,
    /// How many of the module's log lines are in it already.
    logged: usize,
}

impl Trace {
    /// A trace with a title.
    pub fn new(title: &str) -> Self {
        Trace { text: format!("# {title}\n"), logged: 0 }
    }

    /// Adds what the module has logged since.
    pub fn catch_up(&mut self, host: &Host) {
        let log = host.log();
        for line in log.iter().skip(self.logged) {
            // That every VM says the same at its start is of no interest.
            if line.thread != Thread::Canary {
                let seat = if line.seat == Seat::Attempt { " (attempt)" } else { "" };
                let _ = writeln!(self.text, "{}  {}{seat}: {}", Clock(line.at), line.thread, line.text);
            }
        }
        self.logged = log.len();
    }

    /// Adds a line of the test's own, after what the module has logged before it.
    pub fn note(&mut self, host: &Host, line: impl fmt::Display) {
        self.catch_up(host);
        let _ = writeln!(self.text, "{}  {line}", Clock(host.elapsed()));
    }

    /// Adds a line without a time.
    pub fn line(&mut self, line: impl fmt::Display) {
        let _ = writeln!(self.text, "{line}");
    }

    /// Compares it with `traces/NAME.txt`; with `UPDATE_TRACES=1` in the environment, writes that file instead.
    pub fn check(self, name: &str) {
        check(name, &self.text);
    }
}

/// Compares a text with `traces/NAME.txt`; with `UPDATE_TRACES=1` in the environment, writes that file instead.
pub fn check(name: &str, text: &str) {
    if is_updating() {
        std::fs::write(path_of(name), text).unwrap();
    } else if let Some(complaint) = complaint(name, text) {
        panic!("{complaint}");
    }
}

/// A table in a directory: what is said above it, and each case in a file of its own, so that a difference is shown beside
/// the name of its case.
#[derive(Debug)]
pub struct Cases {
    directory: &'static str,
    /// By the names of the files.
    texts: BTreeMap<String, String>,
}

impl Cases {
    /// A table in `traces/DIRECTORY/`, with this text in `about.txt` there.
    pub fn new(directory: &'static str, about: &str) -> Self {
        Cases { directory, texts: BTreeMap::from([("about".to_owned(), about.to_owned())]) }
    }

    /// Adds a case. Its file is named by its words.
    pub fn add(&mut self, name: &str, text: String) {
        let words: Vec<_> = name.split(|one: char| !one.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
        let file = words.join("_").to_lowercase();
        let other = self.texts.insert(file.clone(), text);
        assert_eq!(other, None, "two cases of traces/{} are named {file}", self.directory);
    }

    /// Compares all of them with the files in the directory, where no other file may be; with `UPDATE_TRACES=1` in the
    /// environment, writes those files instead, and removes others.
    pub fn check(self) {
        if is_updating() {
            self.write();
        } else {
            let complaints = self.complaints();
            assert!(complaints.is_empty(), "{}", complaints.join("\n"));
        }
    }

    fn directory(&self) -> PathBuf {
        traces().join(self.directory)
    }

    fn write(&self) {
        let _ = std::fs::remove_dir_all(self.directory());
        std::fs::create_dir_all(self.directory()).unwrap();
        for (file, text) in &self.texts {
            std::fs::write(self.directory().join(format!("{file}.txt")), text).unwrap();
        }
    }

    fn complaints(&self) -> Vec<String> {
        let differing = self.texts.iter().map(|(file, text)| complaint(&format!("{}/{file}", self.directory), text));
        let mut complaints: Vec<_> = differing.flatten().collect();
        for entry in std::fs::read_dir(self.directory()).into_iter().flatten() {
            let file = entry.unwrap().file_name().into_string().unwrap();
            if !file.strip_suffix(".txt").is_some_and(|name| self.texts.contains_key(name)) {
                complaints.push(format!(
                    "traces/{}/{file} belongs to no case. If its case is gone, run again with UPDATE_TRACES=1, which \
                     removes the file",
                    self.directory
                ));
            }
        }
        complaints
    }
}

fn is_updating() -> bool {
    std::env::var_os("UPDATE_TRACES").is_some_and(|value| value == "1")
}

fn traces() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("traces")
}

fn path_of(name: &str) -> PathBuf {
    traces().join(format!("{name}.txt"))
}

/// What there is to say when the committed text is another.
fn complaint(name: &str, text: &str) -> Option<String> {
    let committed = std::fs::read_to_string(path_of(name));
    if committed.as_ref().is_ok_and(|committed| committed == text) {
        return None;
    }
    let committed = committed.unwrap_or_default();
    let differs = committed.lines().zip(text.lines()).position(|(old, new)| old != new);
    let line = differs.unwrap_or_else(|| committed.lines().count().min(text.lines().count())) + 1;
    Some(format!(
        "traces/{name}.txt says something else, from line {line}. If the new trace is right, run again with \
         UPDATE_TRACES=1 and review the difference. The new trace:\n{text}"
    ))
}

/// A time as `h:mm:ss.mmm`.
#[derive(Debug, Clone, Copy)]
pub struct Clock(pub Duration);

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, millis) = (self.0.as_secs(), self.0.subsec_millis());
        write!(f, "{}:{:02}:{:02}.{millis:03}", seconds / 3600, seconds / 60 % 60, seconds % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_whose_case_is_gone_is_complained_of() {
        let mut cases = Cases::new("retry_calls", "another text");
        cases.add("A new case, of no text", String::new());
        cases.add("retry", std::fs::read_to_string(path_of("retry_calls/retry")).unwrap());
        let complaints = cases.complaints();
        let has = |start: &str| complaints.iter().any(|one| one.starts_with(start));
        assert!(has("traces/retry_calls/about.txt says something else, from line 1."), "{complaints:?}");
        assert!(
            has("traces/retry_calls/a_new_case_of_no_text.txt says something else, from line 1."),
            "{complaints:?}"
        );
        assert!(has("traces/retry_calls/no_policy.txt belongs to no case."), "{complaints:?}");
        assert!(!has("traces/retry_calls/retry.txt"), "it is as it is committed: {complaints:?}");
    }
}
