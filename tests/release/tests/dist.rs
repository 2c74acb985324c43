//! What was made for a release is what its readers take it for. `./build.sh test dist` makes it, and makes it twice.

// A test may stop at the first broken expectation.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "newcomer/mod.rs"]
mod newcomer;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs};

use holdfast_release_tests::{Entry, Release, entries, entries_packed, files_below, root, sha256};
use memchr::memmem;
use serde_json::{Value, json};

/// Module and program: the file, its bill of materials, the package, and its name within the archive.
const ARTEFACTS: [(&str, &str, &str, &str); 2] = [
    (".wasm", ".wasm.cdx.json", "holdfast", "holdfast.wasm"),
    ("-linux-x86_64", "-linux-x86_64.cdx.json", "holdfast-cli", "holdfast"),
];

fn release() -> Release {
    Release::from_environment().unwrap()
}

/// A folder of this test's own, empty.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn json_of(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The release's archive, by the paths below its one folder.
fn archive(release: &Release) -> BTreeMap<String, Entry> {
    let inside = format!("holdfast-{}-linux-x86_64/", release.version());
    let all = entries_packed(&release.read("-linux-x86_64.tar.gz").unwrap()).unwrap();
    all.into_iter()
        .map(|entry| (entry.path.strip_prefix(&inside).expect("all of it is in one folder").to_owned(), entry))
        .collect()
}

#[test]
fn the_sums_are_those_of_every_file() {
    let release = release();
    let mut files = release.files().unwrap();
    let sums = String::from_utf8(files.remove("SHA256SUMS").unwrap()).unwrap();
    let told: BTreeMap<&str, &str> =
        sums.lines().map(|line| line.split_once("  ").unwrap()).map(|(sum, name)| (name, sum)).collect();
    let real: BTreeMap<&str, String> = files.iter().map(|(name, bytes)| (name.as_str(), sha256(bytes))).collect();
    assert_eq!(told, real.iter().map(|(name, sum)| (*name, sum.as_str())).collect());

    let check = Command::new("sha256sum")
        .args(["--check", "--strict", "SHA256SUMS"])
        .current_dir(release.folder())
        .output()
        .unwrap();
    assert!(check.status.success(), "{}", said(&check));
}

#[test]
fn archives_tell_nothing_of_the_machine_and_stand_in_order() {
    let release = release();
    let mut times = BTreeSet::new();
    for file in ["-linux-x86_64.tar.gz", "-chart.tgz"] {
        let packed = release.read(file).unwrap();
        assert_eq!(packed[3] & 0b0000_1000, 0, "{file}: gzip keeps no name");
        assert_eq!(packed[4..8], [0; 4], "{file}: gzip keeps no time");
        let all = entries_packed(&packed).unwrap();
        let paths: Vec<&str> = all.iter().map(|entry| entry.path.as_str()).collect();
        assert!(paths.is_sorted(), "{file}: {paths:?}");
        for entry in &all {
            let is_program = entry.path.ends_with('/') || entry.path.ends_with("/holdfast");
            assert_eq!(entry.mode, if is_program { 0o755 } else { 0o644 }, "{}", entry.path);
            assert_eq!(entry.owner, (0, 0), "{}", entry.path);
            assert_eq!(entry.names, (String::new(), String::new()), "{}", entry.path);
            times.insert(entry.time);
        }
    }
    assert_eq!(times.len(), 1, "all is of the commit's time: {times:?}");
}

#[test]
fn the_archive_has_module_program_schema_and_configurations() {
    let release = release();
    let archive = archive(&release);
    for (file, bill, _, name) in ARTEFACTS {
        assert_eq!(archive[name].bytes, release.read(file).unwrap(), "{name}");
        assert_eq!(archive[&format!("{name}.cdx.json")].bytes, release.read(bill).unwrap());
    }
    assert_eq!(archive["holdfast.schema.json"].bytes, release.read(".schema.json").unwrap());
    assert_eq!(archive["THIRD-PARTY.txt"].bytes, release.read("-third-party.txt").unwrap());
    for name in ["LICENSE", "README.md", "envoy/envoy.yaml"] {
        assert_eq!(archive[name].bytes, fs::read(root().join(name)).unwrap(), "{name}");
    }
    let configurations = archive.iter().filter(|(path, _)| path.starts_with("envoy/") && !path.ends_with('/'));
    let packed: BTreeMap<String, Vec<u8>> =
        configurations.map(|(path, entry)| (path.replacen("envoy/", "", 1), entry.bytes.clone())).collect();
    assert_eq!(packed, files_below(&root().join("envoy")).unwrap());
}

#[test]
fn every_link_of_the_readme_leads_somewhere_in_the_archive() {
    let unpacked = folder("unpacked");
    for (path, entry) in archive(&release()) {
        let to = unpacked.join(&path);
        if path.is_empty() || path.ends_with('/') {
            fs::create_dir_all(to).unwrap();
        } else {
            fs::write(to, entry.bytes).unwrap();
        }
    }
    let pages = holdfast_docs_tests::pages(&unpacked).unwrap();
    let readme = pages.iter().find(|page| page.name == "README.md").unwrap();
    let fault = |(line, target): &(usize, String)| {
        holdfast_docs_tests::link::fault(&unpacked, &pages, readme, target)
            .map(|fault| format!("README.md:{line}: ({target}) {fault}"))
    };
    let faults: Vec<String> = readme.targets.iter().filter_map(fault).collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn nothing_names_a_folder_of_the_machine_that_made_it() {
    let release = release();
    let home = PathBuf::from(env::var_os("HOME").unwrap());
    let cargo = env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().to_owned();
    let folders = [root().canonicalize().unwrap(), cargo, target, home.join(".rustup")];
    let mut files = release.files().unwrap();
    files.extend(archive(&release).into_iter().map(|(path, entry)| (format!("archive: {path}"), entry.bytes)));
    for folder in &folders {
        let finder = memmem::Finder::new(folder.as_os_str().as_encoded_bytes());
        let named: Vec<&str> =
            files.iter().filter(|(_, bytes)| finder.find(bytes).is_some()).map(|(name, _)| name.as_str()).collect();
        assert!(named.is_empty(), "{} is named in {named:?}", folder.display());
    }
}

fn number(bytes: &[u8], at: usize, length: usize) -> usize {
    bytes[at..at + length].iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

/// Its file and memory layout is that of [System V's ABI](https://gabi.xinuos.com/).
#[test]
fn the_program_asks_for_no_loader_and_no_library() {
    let program = release().read("-linux-x86_64").unwrap();
    assert_eq!(&program[..6], b"\x7fELF\x02\x01", "64 bits, little endian");
    assert_eq!(number(&program, 18, 2), 62, "x86-64");
    let (first, size, count) = (number(&program, 32, 8), number(&program, 54, 2), number(&program, 56, 2));
    for header in (0..count).map(|at| first + at * size) {
        let kind = number(&program, header, 4);
        assert_ne!(kind, 3, "a loader is named");
        if kind == 2 {
            let (offset, length) = (number(&program, header + 8, 8), number(&program, header + 32, 8));
            let tags = (0..length / 16).map(|at| number(&program, offset + at * 16, 8));
            assert!(tags.take_while(|tag| *tag != 0).all(|tag| tag != 1), "a library is named");
        }
    }
}

/// In an empty root where that is allowed; without an environment everywhere.
#[test]
fn the_program_runs_where_there_is_nothing_else() {
    let release = release();
    let alone = folder("alone");
    fs::copy(release.path("-linux-x86_64"), alone.join("holdfast")).unwrap();
    let is_root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
    let mut command = if is_root {
        let mut command = Command::new("chroot");
        command.arg(&alone).arg("/holdfast");
        command
    } else {
        Command::new(alone.join("holdfast"))
    };
    let output = command.arg("--version").env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("holdfast {}\n", release.version()));
}

#[test]
fn the_schema_is_the_one_that_the_program_prints() {
    let release = release();
    let output = Command::new(release.path("-linux-x86_64")).args(["check", "--schema"]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(output.stdout, release.read(".schema.json").unwrap());
    assert_eq!(
        fs::read(root().join("docs/policy.schema.json")).unwrap(),
        output.stdout,
        "docs/policy.schema.json is of before"
    );
}

#[test]
fn the_image_holds_the_module() {
    let release = release();
    let files: BTreeMap<String, Vec<u8>> = entries(release.read("-image.tar").unwrap().as_slice())
        .unwrap()
        .into_iter()
        .map(|entry| (entry.path, entry.bytes))
        .collect();
    let layout = files_below(&release.path("-image")).unwrap();
    for (name, bytes) in &layout {
        assert_eq!(files.get(name), Some(bytes), "{name} is in the archive too");
    }
    let blob = |descriptor: &Value| {
        layout[&format!("blobs/{}", descriptor["digest"].as_str().unwrap().replace(':', "/"))].clone()
    };
    let manifest = json_of(&blob(&json_of(&layout["index.json"])["manifests"][0]));
    assert_eq!(manifest["annotations"]["org.opencontainers.image.version"], release.version());
    let layer = entries_packed(&blob(&manifest["layers"][0])).unwrap();
    assert_eq!(layer.len(), 1);
    assert_eq!(layer[0].bytes, release.read(".wasm").unwrap());
}

#[test]
fn the_chart_is_the_one_of_the_source() {
    let release = release();
    let all = entries_packed(&release.read("-chart.tgz").unwrap()).unwrap();
    let packed: BTreeMap<String, Vec<u8>> = all
        .into_iter()
        .filter(|entry| !entry.path.ends_with('/'))
        .map(|entry| (entry.path.strip_prefix("holdfast/").unwrap().to_owned(), entry.bytes))
        .collect();
    assert_eq!(packed, files_below(&root().join("envoy/helm/holdfast")).unwrap());
}

/// The commands of "Get it", as they stand in the README.
#[test]
fn the_readme_leads_from_the_release_to_module_and_program() {
    let release = release();
    let got = folder("got");
    for file in [format!("holdfast-{}-linux-x86_64.tar.gz", release.version()), "SHA256SUMS".to_owned()] {
        fs::copy(release.folder().join(&file), got.join(&file)).unwrap();
    }
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let (_, get_it) = readme.split_once("\n## Get it\n").unwrap();
    let (_, commands) = get_it.split_once("```sh\n").unwrap();
    let (commands, _) = commands.split_once("```").unwrap();
    let script =
        format!("set -eu\n{commands}\n./holdfast --version\nsha256sum holdfast.wasm\n./holdfast check --help\n");
    let output = Command::new("sh").arg("-c").arg(script).current_dir(&got).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let text = said(&output);
    assert!(text.contains(&format!("holdfast {}\n", release.version())), "{text}");
    assert!(text.contains(&sha256(&release.read(".wasm").unwrap())), "{text}");
}

/// Where Helm is: building it takes minutes, which `./build.sh istio` does.
#[test]
fn helm_takes_the_chart() {
    let Some(helm) = env::var_os("HOLDFAST_HELM") else { return };
    let chart = release().path("-chart.tgz");
    for arguments in [["lint", "--strict"].as_slice(), ["show", "chart"].as_slice()] {
        let output = Command::new(&helm).args(arguments).arg(&chart).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
    }
}

/// By cargo's own list of dependencies, which the bill is not made of: it is made of what was compiled.
#[test]
fn a_bill_has_every_crate_of_its_artefact_and_no_other() {
    for (_, bill, package, _) in ARTEFACTS {
        let bill = json_of(&release().read(bill).unwrap());
        let target = bill["metadata"]["properties"][0]["value"].as_str().unwrap();
        let tree = Command::new(env!("CARGO"))
            .args(["tree", "--locked", "--package", package, "--target", target, "--edges", "normal,no-proc-macro"])
            .args(["--prefix", "none", "--format", "{p}"])
            .current_dir(root())
            .output()
            .unwrap();
        assert!(tree.status.success(), "{}", said(&tree));
        let tree = String::from_utf8(tree.stdout).unwrap();
        let expected: BTreeSet<(&str, &str)> = tree
            .lines()
            .skip(1)
            .map(|line| line.split_once(" v").unwrap())
            .map(|(name, rest)| (name, rest.split(' ').next().unwrap()))
            .collect();
        let components = bill["components"].as_array().unwrap();
        let own = |component: &&Value| {
            component["purl"].as_str().is_some_and(|purl| purl.starts_with("pkg:generic/holdfast-"))
        };
        let crates = |component: &&Value| component["purl"].as_str().is_some_and(|purl| purl.starts_with("pkg:cargo/"));
        let named: BTreeSet<(&str, &str)> = components
            .iter()
            .filter(|one| own(one) || crates(one))
            .map(|one| (one["name"].as_str().unwrap(), one["version"].as_str().unwrap()))
            .collect();
        assert_eq!(named, expected, "{package}");
        assert!(components.iter().any(|one| one["name"] == "rust-std"), "the standard library is in it too");
    }
}

#[test]
fn a_bill_names_the_very_file_and_the_files_of_its_crates() {
    let release = release();
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    for (file, bill, _, name) in ARTEFACTS {
        let bill = json_of(&release.read(bill).unwrap());
        let component = &bill["metadata"]["component"];
        assert_eq!((&component["name"], &component["version"]), (&json!(name), &json!(release.version())));
        assert_eq!(component["hashes"], json!([{"alg": "SHA-256", "content": sha256(&release.read(file).unwrap())}]));
        for one in bill["components"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|one| one["purl"].as_str().unwrap().starts_with("pkg:cargo/"))
        {
            let [name, version, checksum] =
                [&one["name"], &one["version"], &one["hashes"][0]["content"]].map(|value| value.as_str().unwrap());
            let entry = lock.split("[[package]]").find(|entry| {
                entry.contains(&format!("\nname = \"{name}\"\n"))
                    && entry.contains(&format!("\nversion = \"{version}\"\n"))
            });
            assert!(entry.unwrap().contains(&format!("\nchecksum = \"{checksum}\"\n")), "{name} {version}");
        }
    }
}

#[test]
fn the_licences_are_those_of_every_part() {
    let release = release();
    let page = String::from_utf8(release.read("-third-party.txt").unwrap()).unwrap();
    for (_, bill, ..) in ARTEFACTS {
        for one in json_of(&release.read(bill).unwrap())["components"].as_array().unwrap() {
            let name = format!("{} {}", one["name"].as_str().unwrap(), one["version"].as_str().unwrap());
            if !one["purl"].as_str().unwrap().starts_with("pkg:generic/holdfast-") {
                assert!(page.contains(&format!("\n* {name}: ")), "{name} is not in the list");
                let heads = page.lines().filter(|line| line.split(", ").any(|part| part == name));
                assert!(heads.count() > 0, "{name} has no text");
            }
        }
    }
}

fn validated(files: &[PathBuf]) -> Output {
    let packages =
        env::var_os("HOLDFAST_CYCLONEDX").expect("HOLDFAST_CYCLONEDX must name the folder of CycloneDX's validator");
    let script = root().join("scripts/sbom.py");
    Command::new("python3").arg(script).args(files).env("PYTHONPATH", packages).output().unwrap()
}

#[test]
fn the_validator_of_cyclonedx_has_nothing_to_say() {
    let release = release();
    let output = validated(&ARTEFACTS.map(|(_, bill, ..)| release.path(bill)));
    assert!(output.status.success() && said(&output).is_empty(), "{}", said(&output));
}

#[test]
fn the_validator_has_something_to_say_of_a_broken_bill() {
    let folder = folder("broken");
    let good = json_of(&release().read(".wasm.cdx.json").unwrap());
    let breaks: [(&str, &str, Value); 6] = [
        ("a licence that SPDX does not have", "/components/0/licenses", json!([{"license": {"id": "Holdfast-9.0"}}])),
        ("an expression that is none", "/components/0/licenses", json!([{"expression": "MIT OR Holdfast-9.0"}])),
        ("a hash that is too short", "/components/0/hashes/0/content", json!("abc")),
        ("a key of nobody's", "/components/0", json!({"type": "library", "name": "x", "colour": "red"})),
        ("a package URL that is none", "/components/0/purl", json!("cargo/serde")),
        ("a dependency on nothing", "/dependencies/0/dependsOn/0", json!("pkg:cargo/absent@1.0.0")),
    ];
    for (what, place, value) in breaks {
        let mut broken = good.clone();
        *broken.pointer_mut(place).unwrap() = value;
        let path = folder.join("broken.cdx.json");
        fs::write(&path, broken.to_string()).unwrap();
        let output = validated(&[path]);
        assert_eq!(output.status.code(), Some(1), "{what}: {}", said(&output));
        assert!(said(&output).contains("broken.cdx.json: "), "{what}: {}", said(&output));
    }
}

/// A tree with no more than `dist` looks at before it builds, and with one file changed.
fn refused(name: &str, file: &str, from: &str, to: &str) -> String {
    let tree = folder(name);
    for path in ["build.sh", "Cargo.toml", "CHANGELOG.md", "envoy/helm/holdfast/Chart.yaml"] {
        fs::create_dir_all(tree.join(path).parent().unwrap()).unwrap();
        fs::copy(root().join(path), tree.join(path)).unwrap();
    }
    fs::create_dir(tree.join("scripts")).unwrap();
    for (path, bytes) in files_below(&root().join("scripts")).unwrap() {
        fs::write(tree.join("scripts").join(path), bytes).unwrap();
    }
    let text = fs::read_to_string(tree.join(file)).unwrap();
    assert!(text.contains(from), "{file} has no {from}");
    fs::write(tree.join(file), text.replace(from, to)).unwrap();
    let output = Command::new(tree.join("build.sh")).arg("dist").env_remove("SOURCE_DATE_EPOCH").output().unwrap();
    assert!(!output.status.success());
    assert!(!tree.join("dist").exists(), "nothing is half made");
    said(&output)
}

#[test]
fn a_release_of_two_versions_or_of_no_time_is_refused() {
    let version = env!("CARGO_PKG_VERSION");
    let chart = "envoy/helm/holdfast/Chart.yaml";
    let text = refused("chart", chart, &format!("\nversion: {version}\n"), "\nversion: 0.0.9\n");
    assert!(text.contains(&format!("Chart.yaml: version must be {version}, as in Cargo.toml")), "{text}");
    let text = refused("application", chart, &format!("appVersion: \"{version}\""), "appVersion: \"0.0.9\"");
    assert!(text.contains(&format!("Chart.yaml: appVersion must be \"{version}\", as in Cargo.toml")), "{text}");
    let text = refused("changes", "CHANGELOG.md", &format!("## [{version}]"), "## [0.0.9]");
    assert!(text.contains(&format!("CHANGELOG.md must have a section ## [{version}], as in Cargo.toml")), "{text}");
    let text = refused("time", "CHANGELOG.md", "# Changelog", "# Changelog");
    assert!(text.contains("SOURCE_DATE_EPOCH=SECONDS"), "{text}");
}
