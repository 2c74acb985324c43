//! The image as those read it who load it: by its index, its hashes, and the one file in its layer.

// Clippy allows it in test functions only, and not in the helpers that they share.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use flate2::read::GzDecoder;
use holdfast_image::{FILE_IN_LAYER, Image};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A module that does nothing, with a custom section so long that it is worth compressing.
fn module() -> Vec<u8> {
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    module.extend([0, 0xe9, 0x07, 4]);
    module.extend(b"fill");
    module.extend([7; 996]);
    module
}

/// A folder of this test's own, empty.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn run(arguments: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_holdfast-image")).args(arguments).output().unwrap()
}

/// The bytes that a descriptor names, with what it says of them checked.
fn blob(layout: &Path, descriptor: &Value) -> Vec<u8> {
    let (kind, hash) = descriptor["digest"].as_str().unwrap().split_once(':').unwrap();
    assert_eq!(kind, "sha256");
    let bytes = fs::read(layout.join("blobs/sha256").join(hash)).unwrap();
    assert_eq!(hash, hash_of(&bytes));
    assert_eq!(descriptor["size"], bytes.len());
    bytes
}

fn hash_of(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn json_of(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

fn files_in(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let header = entry.header();
        assert_eq!((header.mtime().unwrap(), header.uid().unwrap(), header.gid().unwrap()), (0, 0, 0));
        assert_eq!(header.mode().unwrap(), 0o644);
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        files.insert(name, bytes);
    }
    files
}

#[test]
fn index_manifest_and_layer_lead_to_the_module() {
    let layout = folder("leads").join("image");
    Image::of_module(&module()).unwrap().write_layout(&layout).unwrap();

    assert_eq!(json_of(&fs::read(layout.join("oci-layout")).unwrap()), json!({"imageLayoutVersion": "1.0.0"}));
    let index = json_of(&fs::read(layout.join("index.json")).unwrap());
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1, "crane pushes the image, for there is but one");
    let manifest = json_of(&blob(&layout, &index["manifests"][0]));
    assert_eq!(manifest["mediaType"], index["manifests"][0]["mediaType"]);

    let layers = manifest["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 1);
    assert_eq!(layers[0]["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
    let packed = blob(&layout, &layers[0]);
    assert!(packed.len() < module().len() / 2, "the layer is compressed");
    let mut layer = Vec::new();
    GzDecoder::new(packed.as_slice()).read_to_end(&mut layer).unwrap();
    assert_eq!(files_in(&layer), BTreeMap::from([(FILE_IN_LAYER.to_owned(), module())]));

    let config = json_of(&blob(&layout, &manifest["config"]));
    assert_eq!(config["rootfs"]["diff_ids"], json!([format!("sha256:{}", hash_of(&layer))]));
}

/// The layer of this very module. It changes with a compressor that packs otherwise: then images of before and after differ
/// though their modules are equal, which belongs into the change log.
#[test]
fn an_equal_module_gives_an_equal_image_on_every_machine() {
    let image = Image::of_module(&module()).unwrap();
    let files = files_in(&image.archive().unwrap());
    let docker = json_of(&files["manifest.json"]);
    assert_eq!(
        docker[0]["Layers"],
        json!(["blobs/sha256/a3e73d1b0bf494a2239f915ca1863ae03ec23824096e91a98552c81b80c01c58"])
    );
    assert_eq!(image.archive().unwrap(), Image::of_module(&module()).unwrap().archive().unwrap());

    let mut other = module();
    other.push(0);
    assert_ne!(image.digest(), Image::of_module(&other).unwrap().digest());
}

#[test]
fn the_archive_is_a_layout_that_docker_reads_too() {
    let layout = folder("archive").join("image");
    let image = Image::of_module(&module()).unwrap();
    image.write_layout(&layout).unwrap();
    let files = files_in(&image.archive().unwrap());

    let docker = json_of(&files["manifest.json"]);
    let config = docker[0]["Config"].as_str().unwrap();
    let layer = docker[0]["Layers"][0].as_str().unwrap();
    assert_eq!(json_of(&files[config])["rootfs"]["type"], "layers");
    assert!(files.contains_key(layer));
    for (name, bytes) in files.iter().filter(|(name, _)| *name != "manifest.json") {
        assert_eq!(&fs::read(layout.join(name)).unwrap(), bytes, "{name}");
    }
    assert_eq!(files.len(), 6);
}

#[test]
fn the_program_replaces_an_image_of_before_and_prints_the_digest() {
    let folder = folder("program");
    let [file, layout, archive] = ["holdfast.wasm", "image", "image.tar"].map(|name| folder.join(name));
    let mut other = module();
    other.push(0);
    for module in [other, module()] {
        fs::write(&file, &module).unwrap();
        let output = run(&[&file, &layout, &archive]);
        assert!(output.status.success(), "{output:?}");
        let image = Image::of_module(&module).unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{}\n", image.digest()));
        assert_eq!(fs::read(&archive).unwrap(), image.archive().unwrap());
        assert_eq!(
            fs::read_dir(layout.join("blobs/sha256")).unwrap().count(),
            3,
            "nothing of an image of before is left"
        );
    }
}

#[test]
fn what_is_no_module_is_refused_by_its_name_and_nothing_is_written() {
    let folder = folder("refused");
    let [file, layout, archive] = ["text.wasm", "image", "image.tar"].map(|name| folder.join(name));
    fs::write(&file, "not wasm").unwrap();
    let output = run(&[&file, &layout, &archive]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("text.wasm: not a WebAssembly module: it must begin with the bytes 00 61 73 6d"), "{said}");
    assert!(!layout.exists() && !archive.exists());

    let output = run(&[&folder.join("absent.wasm"), &layout, &archive]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("absent.wasm: "));
    assert_eq!(run(&[&file]).status.code(), Some(2), "three arguments, no fewer");
}

#[test]
fn a_folder_that_is_no_image_is_left_alone() {
    let folder = folder("alone");
    let theirs = folder.join("image");
    fs::create_dir(&theirs).unwrap();
    fs::write(theirs.join("letter.txt"), "dear").unwrap();
    let refused = Image::of_module(&module()).unwrap().write_layout(&theirs).unwrap_err();
    assert!(refused.to_string().contains("no OCI image layout"), "{refused}");
    assert_eq!(fs::read_to_string(theirs.join("letter.txt")).unwrap(), "dear");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing is left beside it");
}
