//! A fixture says which files it was made from, so that one that is older than they are fails its test.

use std::fs;
use std::path::PathBuf;

use sha2::{Digest, Sha256};

/// The hash of the bytes of these files, one after the other: SHA-256 in hexadecimal digits.
pub fn hash_of(files: &[PathBuf]) -> String {
    let mut bytes = Vec::new();
    for file in files {
        bytes.extend(fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display())));
    }
    hash_of_bytes(&bytes)
}

/// The hash of these bytes: SHA-256 in hexadecimal digits.
pub fn hash_of_bytes(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
