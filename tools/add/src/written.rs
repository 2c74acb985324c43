//! Files that are written whole.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Writes all files or none, given by their names and texts: each into a new one beside it, and only when all are there they take
/// their names. So whoever reads one of them finds the old text or the new one.
///
/// # Errors
///
/// A line that names the file that cannot be written.
pub fn all(files: &[(&str, &str)]) -> Result<(), String> {
    let mut ready: Vec<(PathBuf, PathBuf)> = Vec::new();
    let undo = |ready: &[(PathBuf, PathBuf)]| ready.iter().for_each(|(new, _)| drop(fs::remove_file(new)));
    for (name, text) in files {
        let problem = |error: io::Error| format!("{name}: cannot be written: {error}");
        match beside(Path::new(name), text) {
            Ok(pair) => ready.push(pair),
            Err(error) => {
                undo(&ready);
                return Err(problem(error));
            }
        }
    }
    for (index, (new, file)) in ready.iter().enumerate() {
        if let Err(error) = fs::rename(new, file) {
            undo(ready.get(index..).unwrap_or_default());
            return Err(format!("{}: cannot be written: {error}", file.display()));
        }
    }
    Ok(())
}

/// The new file, and the one whose place it takes.
fn beside(file: &Path, text: &str) -> io::Result<(PathBuf, PathBuf)> {
    // What a link leads to is what changes.
    let file = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let mut name = OsString::from(".");
    name.push(file.file_name().ok_or(io::ErrorKind::IsADirectory)?);
    name.push(".new");
    let new = file.with_file_name(name);
    let written = || {
        let mut fresh = File::create(&new)?;
        if let Ok(before) = fs::metadata(&file) {
            fresh.set_permissions(before.permissions())?;
        }
        fresh.write_all(text.as_bytes())?;
        fresh.sync_all()
    };
    written().inspect_err(|_| drop(fs::remove_file(&new)))?;
    Ok((new, file))
}
