//! The documentation as its test reads it: [`Page`]s with their examples, links and words, and what is wrong with each.
//!
//! An example says in its fence what it is, so that it can be loaded: see [`example::fault`] for the marks.

pub mod contained;
pub mod documents;
pub mod example;
pub mod link;
pub mod page;

use std::io;
use std::path::{Path, PathBuf};

pub use page::{Example, Page};

/// The repository.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// All pages: those beside the README and those below `docs/`, by path.
///
/// # Errors
/// Where a page or a directory cannot be read.
pub fn pages(root: &Path) -> io::Result<Vec<Page>> {
    let mut paths = Vec::new();
    markdown_in(root, &mut paths)?;
    let mut directories = vec![root.join("docs")];
    while let Some(directory) = directories.pop() {
        directories.extend(markdown_in(&directory, &mut paths)?);
    }
    paths.sort();
    paths
        .iter()
        .map(|path| {
            let name = path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
            Ok(Page::read(&name, &std::fs::read_to_string(path)?))
        })
        .collect()
}

/// Adds the pages of one directory, and gives the directories in it.
fn markdown_in(directory: &Path, pages: &mut Vec<PathBuf>) -> io::Result<Vec<PathBuf>> {
    let mut directories = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            directories.push(path);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            pages.push(path);
        }
    }
    Ok(directories)
}
