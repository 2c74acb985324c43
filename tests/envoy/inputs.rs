//! A fixture says which files it was made from, so that one that is older than they are fails its test.

use std::fs;
use std::path::PathBuf;

use sha2::{Digest, Sha256};

/// The hash of the bytes of these files, one after the other: SHA-256 in hexadecimal digits.
pub fn hash_of(files: &[PathBuf]) -> String {
    let mut hash = Sha256::new();
    for file in files {
        hash.update(fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display())));
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
