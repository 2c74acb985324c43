//! A release as those see it who get it: its files, and what is in its archives.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::{env, fs};

use flate2::read::GzDecoder;
use sha2::{Digest, Sha256};

/// The repository.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The folder that `./build.sh dist` has made.
#[derive(Debug, Clone)]
pub struct Release {
    folder: PathBuf,
    version: String,
}

impl Release {
    /// The one that `HOLDFAST_RELEASE` names, of the version of this package.
    ///
    /// # Errors
    /// When the variable is missing.
    pub fn from_environment() -> Result<Self, String> {
        let folder = env::var_os("HOLDFAST_RELEASE")
            .ok_or("HOLDFAST_RELEASE must name the folder of a release: ./build.sh test dist")?;
        Ok(Self { folder: folder.into(), version: env!("CARGO_PKG_VERSION").to_owned() })
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The version of all its files.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// `holdfast-VERSION` and what comes behind that in a file's name.
    #[must_use]
    pub fn path(&self, behind: &str) -> PathBuf {
        self.folder.join(format!("holdfast-{}{behind}", self.version))
    }

    /// The bytes of that file.
    ///
    /// # Errors
    /// When it cannot be read; the error names it.
    pub fn read(&self, behind: &str) -> io::Result<Vec<u8>> {
        let path = self.path(behind);
        fs::read(&path).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    }

    /// Every file by its path within the folder.
    ///
    /// # Errors
    /// When a folder cannot be read.
    pub fn files(&self) -> io::Result<BTreeMap<String, Vec<u8>>> {
        files_below(&self.folder)
    }
}

/// Every file below a folder, by its path there.
///
/// # Errors
/// When a folder or a file cannot be read.
pub fn files_below(folder: &Path) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    let mut ahead = vec![folder.to_owned()];
    while let Some(next) = ahead.pop() {
        for entry in fs::read_dir(&next)? {
            let path = entry?.path();
            if path.is_dir() {
                ahead.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().into_owned();
                files.insert(name, fs::read(&path)?);
            }
        }
    }
    Ok(files)
}

/// What stands in an archive, with everything that could differ from machine to machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path; a folder's ends with a slash.
    pub path: String,
    /// Its permissions.
    pub mode: u32,
    /// Seconds since 1970.
    pub time: u64,
    /// Owner and group, by number.
    pub owner: (u64, u64),
    /// Owner and group, by name.
    pub names: (String, String),
    /// Empty for a folder.
    pub bytes: Vec<u8>,
}

/// The entries of a `tar`, in their order.
///
/// # Errors
/// When it is none.
pub fn entries(archive: impl Read) -> io::Result<Vec<Entry>> {
    let mut found = Vec::new();
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        let header = entry.header();
        let name = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
        let mut made = Entry {
            path: entry.path()?.to_string_lossy().into_owned(),
            mode: header.mode()?,
            time: header.mtime()?,
            owner: (header.uid()?, header.gid()?),
            names: (name(header.username_bytes()), name(header.groupname_bytes())),
            bytes: Vec::new(),
        };
        entry.read_to_end(&mut made.bytes)?;
        found.push(made);
    }
    Ok(found)
}

/// The entries of a `tar` that is compressed.
///
/// # Errors
/// When it is none.
pub fn entries_packed(archive: &[u8]) -> io::Result<Vec<Entry>> {
    entries(GzDecoder::new(archive))
}

/// SHA-256 as hexadecimal digits.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
