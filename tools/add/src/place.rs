//! Where something stands in what was read, and what is wrong there.

use std::fmt;
use std::rc::Rc;

use holdfast_yaml::Node;

/// A document of a file.
#[derive(Debug, PartialEq, Eq)]
pub struct Origin {
    /// The file's name as it was given.
    pub file: String,
    /// The document's number in the file, from 1; 0 in a file that has one alone.
    pub number: usize,
    /// Its kind, namespace and name, as far as it has them.
    pub title: String,
    /// Its value.
    pub root: Node,
}

/// A field of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    origin: Rc<Origin>,
    path: String,
}

impl Place {
    /// The document as a whole.
    pub fn of(origin: Origin) -> Self {
        Place { origin: Rc::new(origin), path: String::new() }
    }

    /// The way to it from the document's root.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The field `key` of what stands here.
    pub fn field(&self, key: &str) -> Self {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Place { origin: Rc::clone(&self.origin), path }
    }

    /// The entry `index` of the list that stands here.
    pub fn entry(&self, index: usize) -> Self {
        Place { origin: Rc::clone(&self.origin), path: format!("{}[{index}]", self.path) }
    }

    /// The field in the same document that `path` leads to from its root.
    pub fn root(&self, path: &str) -> Self {
        Place { origin: Rc::clone(&self.origin), path: path.to_owned() }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Origin { file, number, title, root } = &*self.origin;
        write!(f, "{file}:{}", root.find(&self.path))?;
        if *number > 0 {
            write!(f, ": document {number}")?;
        }
        if !title.is_empty() {
            write!(f, " ({title})")?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        Ok(())
    }
}

/// Everything that is wrong, and everything that is worth a word.
#[derive(Debug, Default)]
pub struct Report {
    /// With one of these nothing is printed.
    pub errors: Vec<String>,
    /// Lines beside the output.
    pub warnings: Vec<String>,
}

impl Report {
    /// An error at a place.
    pub fn error(&mut self, place: &Place, problem: impl fmt::Display) {
        self.errors.push(format!("{place}: {problem}"));
    }

    /// An error that is about no document.
    pub fn wrong(&mut self, problem: impl fmt::Display) {
        self.errors.push(problem.to_string());
    }

    /// A warning at a place.
    pub fn warn(&mut self, place: &Place, problem: impl fmt::Display) {
        self.note(format!("{place}: {problem}"));
    }

    /// A warning that is about no document. The same one twice is said once.
    pub fn note(&mut self, line: impl fmt::Display) {
        let line = line.to_string();
        if !self.warnings.contains(&line) {
            self.warnings.push(line);
        }
    }
}
