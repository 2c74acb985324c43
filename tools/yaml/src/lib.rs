//! YAML and JSON as people keep them in files: every value with its line and column, texts that hold documents of their own,
//! edits that leave comments and layout as they are, and a writer with comments.
//!
//! ```
//! use holdfast_yaml::{Yaml, edit, parse};
//!
//! let text = "cluster: # ours\n  name: orders\n";
//! let documents = parse(text).unwrap();
//! let root = documents[0].root.as_ref().unwrap();
//! let name = root.at(&["cluster", "name"]).unwrap();
//! assert_eq!((name.start.line, name.start.column), (2, 9));
//!
//! let mut want = Yaml::from(root);
//! want.get_mut("cluster").unwrap().set("", "type", "STATIC");
//! assert_eq!(edit(text, 0, &want).unwrap(), "cluster: # ours\n  name: orders\n  type: STATIC\n");
//! ```

mod edit;
mod node;
mod parse;
mod writer;

pub use edit::{Unedited, edit};
pub use node::{Kind, Node, Position, Style};
pub use parse::{Document, Syntax, parse};
pub use writer::{Entry, Moved, Yaml};
