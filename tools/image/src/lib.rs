//! The OCI image of the module: one layer, in it one file, `plugin.wasm`.
//!
//! This is the form that Istio's agent and Envoy Gateway take: the *compat* variant of the Wasm image specification
//! (<https://github.com/solo-io/wasm/blob/master/spec/spec-compat.md>), which is also what a `Dockerfile` of `FROM scratch`
//! and `COPY holdfast.wasm plugin.wasm` makes. Times, owners and the compressor are fixed, so an equal module gives an
//! equal image, and whoever builds the same module can compare its digest.
//!
//! ```
//! let module = b"\0asm\x01\0\0\0";
//! let image = holdfast_image::Image::of_module(module)?;
//! assert!(image.digest().starts_with("sha256:"));
//! assert_eq!(image.digest(), holdfast_image::Image::of_module(module)?.digest());
//! # Ok::<(), holdfast_image::ImageError>(())
//! ```

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The file that an agent looks for in the last layer.
pub const FILE_IN_LAYER: &str = "plugin.wasm";

/// An OCI layout has this file, so that a tool knows it as one.
const LAYOUT_MARK: &str = "oci-layout";
const INDEX: &str = "index.json";

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
/// The one layer type that agents take in an OCI manifest.
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Nothing of the day of the build gets in.
const CREATED: &str = "1970-01-01T00:00:00Z";
/// `\0asm`, and version 1 of the core format: what agents and Envoy check first.
const WASM: &[u8] = b"\0asm\x01\0\0\0";

/// Why there is no image.
#[derive(Debug)]
pub enum ImageError {
    /// The bytes are not a WebAssembly module.
    NotWasm,
    /// The layer could not be written.
    Layer(io::Error),
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotWasm => {
                f.write_str("not a WebAssembly module: it must begin with the bytes 00 61 73 6d 01 00 00 00")
            }
            Self::Layer(error) => write!(f, "the layer could not be written: {error}"),
        }
    }
}

impl std::error::Error for ImageError {}

/// An image in memory.
#[derive(Clone, Debug)]
pub struct Image {
    layer: Blob,
    config: Blob,
    manifest: Blob,
}

impl Image {
    /// The image of a module.
    ///
    /// # Errors
    /// When `module` is not a WebAssembly module.
    pub fn of_module(module: &[u8]) -> Result<Self, ImageError> {
        if !module.starts_with(WASM) {
            return Err(ImageError::NotWasm);
        }
        let files = tar_of([(FILE_IN_LAYER, module)]).map_err(ImageError::Layer)?;
        let layer = Blob::new(LAYER_TYPE, gzip(&files).map_err(ImageError::Layer)?);
        // The platform is what a build from scratch writes; no agent looks at it, for a module runs anywhere.
        let config = Blob::json(
            CONFIG_TYPE,
            &json!({
                "architecture": "amd64",
                "os": "linux",
                "created": CREATED,
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": [sha256(&files)]},
                "history": [{"created": CREATED, "created_by": format!("COPY holdfast.wasm {FILE_IN_LAYER}")}],
            }),
        );
        let manifest = Blob::json(
            MANIFEST_TYPE,
            &json!({
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "config": config.descriptor(),
                "layers": [layer.descriptor()],
                "annotations": {
                    "org.opencontainers.image.title": "holdfast",
                    "org.opencontainers.image.description": env!("CARGO_PKG_DESCRIPTION"),
                    "org.opencontainers.image.version": VERSION,
                    "org.opencontainers.image.licenses": env!("CARGO_PKG_LICENSE"),
                    "org.opencontainers.image.created": CREATED,
                },
            }),
        );
        Ok(Self { layer, config, manifest })
    }

    /// `sha256:` and the hash of the manifest: what a reference pins behind `@`, and what Istio's `sha256` means for an image.
    #[must_use]
    pub fn digest(&self) -> String {
        sha256(&self.manifest.bytes)
    }

    /// Writes the image layout (`oci-layout`, `index.json`, `blobs/`) as `folder`, in the place of what was there.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn write_layout(&self, folder: &Path) -> io::Result<()> {
        let fresh = beside(folder);
        if fresh.exists() {
            fs::remove_dir_all(&fresh)?;
        }
        for (name, bytes) in self.layout() {
            let file = fresh.join(name);
            if let Some(parent) = file.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(file, bytes)?;
        }
        if folder.exists() {
            // What is not a layout of before is somebody's folder.
            if !folder.join(LAYOUT_MARK).is_file() {
                fs::remove_dir_all(&fresh)?;
                return Err(io::Error::other("is there and no OCI image layout, so it is not replaced"));
            }
            fs::remove_dir_all(folder)?;
        }
        fs::rename(fresh, folder)
    }

    /// The image as one file that both kinds of tools take: an archive of the layout (`oci-archive`), which also has what
    /// `docker load` and `crane push` read, `manifest.json`.
    ///
    /// # Errors
    /// When the archive cannot be written, which in memory does not happen.
    pub fn archive(&self) -> io::Result<Vec<u8>> {
        let docker = to_bytes(&json!([{
            "Config": self.config.path(),
            "RepoTags": [format!("holdfast:{VERSION}")],
            "Layers": [self.layer.path()],
        }]));
        let mut files = self.layout();
        files.push(("manifest.json".to_owned(), docker));
        tar_of(files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())))
    }

    fn layout(&self) -> Vec<(String, Vec<u8>)> {
        let index = to_bytes(&json!({
            "schemaVersion": 2,
            "mediaType": INDEX_TYPE,
            "manifests": [{
                "mediaType": MANIFEST_TYPE,
                "digest": self.digest(),
                "size": self.manifest.bytes.len(),
                "annotations": {"org.opencontainers.image.ref.name": VERSION},
            }],
        }));
        let mut files = vec![
            (LAYOUT_MARK.to_owned(), to_bytes(&json!({"imageLayoutVersion": "1.0.0"}))),
            (INDEX.to_owned(), index),
        ];
        files.extend([&self.manifest, &self.config, &self.layer].map(|blob| (blob.path(), blob.bytes.clone())));
        files
    }
}

/// Bytes that are found by their hash.
#[derive(Clone, Debug)]
struct Blob {
    media_type: &'static str,
    bytes: Vec<u8>,
}

impl Blob {
    fn new(media_type: &'static str, bytes: Vec<u8>) -> Self {
        Self { media_type, bytes }
    }

    fn json(media_type: &'static str, value: &Value) -> Self {
        Self::new(media_type, to_bytes(value))
    }

    fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": sha256(&self.bytes), "size": self.bytes.len()})
    }

    fn path(&self) -> String {
        format!("blobs/{}", sha256(&self.bytes).replace(':', "/"))
    }
}

/// Keys in their order, no spaces: equal values are equal bytes.
fn to_bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn sha256(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// Plain files that everybody may read, of nobody's and of no time.
fn tar_of<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        archive.append_data(&mut header, name, bytes)?;
    }
    archive.into_inner()
}

/// No name and no time in its header.
fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut writer = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    writer.write_all(bytes)?;
    writer.finish()
}

/// A name in the same folder, so that renaming it moves nothing over a border of file systems.
fn beside(folder: &Path) -> PathBuf {
    let mut name = folder.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    folder.with_file_name(name)
}
