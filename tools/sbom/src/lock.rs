//! Checksums of `Cargo.lock`.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::Fault;

/// SHA-256 of the file that the registry gives for a package, by name and version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checksums(BTreeMap<(String, String), String>);

#[derive(Deserialize)]
struct Lock {
    #[serde(default)]
    package: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    checksum: Option<String>,
}

impl Checksums {
    /// Reads a lock file.
    ///
    /// # Errors
    /// When it is none.
    pub fn of(lock: &str) -> Result<Self, Fault> {
        let lock: Lock = toml::from_str(lock).map_err(|error| Fault::new(format!("Cargo.lock: {error}")))?;
        let checksums = lock
            .package
            .into_iter()
            .filter_map(|package| package.checksum.map(|checksum| ((package.name, package.version), checksum)));
        Ok(Self(checksums.collect()))
    }

    /// None for a package that comes from no registry.
    #[must_use]
    pub fn get(&self, name: &str, version: &str) -> Option<&str> {
        self.0.get(&(name.to_owned(), version.to_owned())).map(String::as_str)
    }
}
