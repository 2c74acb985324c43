//! What gets into a bill of materials and what does not, by a build of a few packages.

// Clippy allows it in test functions only, and not in the helpers that they share.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use holdfast_sbom::bom::{self, Linked, Surroundings};
use holdfast_sbom::lock::Checksums;
use holdfast_sbom::packages::{Metadata, Parts};
use holdfast_sbom::{Fault, built, notices};
use serde_json::{Value, json};

const TRIPLE: &str = "wasm32-unknown-unknown";
const REGISTRY: &str = "registry+https://registry.example/index";
const MADE: &[u8] = b"\0asm\x01\0\0\0";

/// A package of the registry.
fn of_registry(name: &str, version: &str, licence: &str) -> Value {
    json!({
        "id": format!("{REGISTRY}#{name}@{version}"), "name": name, "version": version, "license": licence,
        "description": "Wrapped\n  words", "repository": format!("https://example.org/{name}"), "source": REGISTRY,
        "manifest_path": format!("/crates/{name}-{version}/Cargo.toml"),
    })
}

fn needs(package: &str, kinds: &[Option<&str>]) -> Value {
    let kinds: Vec<Value> = kinds.iter().map(|kind| json!({"kind": kind, "target": null})).collect();
    json!({"pkg": package, "dep_kinds": kinds})
}

/// `ours` needs `parse`, which needs `digits` and a macro; it is tested with `quick`, and its build script needs `cc`.
fn metadata() -> Value {
    let [ours, parse, digits, derive, syn, quick, cc] = ids();
    json!({
        "packages": [
            {
                "id": ours, "name": "ours", "version": "0.1.0", "license": "Apache-2.0", "description": null,
                "repository": null, "source": null, "manifest_path": "/ours/Cargo.toml",
            },
            of_registry("parse", "1.0.0", "MIT/Apache-2.0"),
            of_registry("digits", "2.0.0+spec-1", "Zlib"),
            of_registry("derive", "1.0.0", "MIT"),
            of_registry("syn", "3.0.0", "MIT"),
            of_registry("quick", "1.0.0", "MIT"),
            of_registry("cc", "1.0.0", "MIT"),
        ],
        "resolve": {"nodes": [
            {"id": ours, "deps": [needs(parse, &[None, Some("dev")]), needs(quick, &[Some("dev")]), needs(cc, &[Some("build")])]},
            {"id": parse, "deps": [needs(digits, &[None]), needs(derive, &[None])]},
            {"id": digits, "deps": []},
            {"id": derive, "deps": [needs(syn, &[None])]},
            {"id": syn, "deps": []},
            {"id": quick, "deps": []},
            {"id": cc, "deps": []},
        ]},
    })
}

fn ids() -> [&'static str; 7] {
    [
        "path+file:///ours#0.1.0",
        "registry+https://registry.example/index#parse@1.0.0",
        "registry+https://registry.example/index#digits@2.0.0+spec-1",
        "registry+https://registry.example/index#derive@1.0.0",
        "registry+https://registry.example/index#syn@3.0.0",
        "registry+https://registry.example/index#quick@1.0.0",
        "registry+https://registry.example/index#cc@1.0.0",
    ]
}

fn artefact(id: &str, kind: &str, file: &str) -> String {
    json!({"reason": "compiler-artifact", "package_id": id, "target": {"kind": [kind]}, "filenames": [file]})
        .to_string()
}

/// What cargo says of that build.
fn messages() -> String {
    let [ours, parse, digits, derive, syn, _, cc] = ids();
    [
        artefact(syn, "lib", "/t/wasm/deps/libsyn-1.rmeta"),
        artefact(cc, "lib", "/t/wasm/deps/libcc-1.rmeta"),
        artefact(derive, "proc-macro", "/t/wasm/deps/libderive-1.so"),
        artefact(digits, "lib", "/t/wasm32-unknown-unknown/wasm/deps/libdigits-1.rmeta"),
        artefact(parse, "custom-build", "/t/wasm/build/parse-1/build-script-build"),
        json!({"reason": "build-script-executed", "package_id": parse, "out_dir": "/t"}).to_string(),
        artefact(parse, "lib", "/t/wasm32-unknown-unknown/wasm/deps/libparse-1.rmeta"),
        artefact(ours, "cdylib", "/t/wasm32-unknown-unknown/wasm/ours.wasm"),
        json!({"reason": "build-finished", "success": true}).to_string(),
    ]
    .join("\n")
}

fn lock() -> String {
    format!(
        "version = 4\n\n[[package]]\nname = \"ours\"\nversion = \"0.1.0\"\n\n\
         [[package]]\nname = \"parse\"\nversion = \"1.0.0\"\nchecksum = \"{}\"\n\n\
         [[package]]\nname = \"digits\"\nversion = \"2.0.0+spec-1\"\nchecksum = \"{}\"\n",
        "a".repeat(64),
        "b".repeat(64)
    )
}

fn around() -> Surroundings {
    Surroundings {
        kind: "library".to_owned(),
        file: "ours.wasm".to_owned(),
        triple: TRIPLE.to_owned(),
        linked: vec![Linked {
            name: "rust-std".to_owned(),
            version: "1.95.0".to_owned(),
            purl: "pkg:generic/rust-std@1.95.0".to_owned(),
            licence: "MIT OR Apache-2.0".to_owned(),
            copyright: "Its authors".to_owned(),
        }],
        tools: vec![("rustc".to_owned(), "1.95.0".to_owned())],
    }
}

fn bill(metadata: &Value, messages: &str, lock: &str) -> Result<String, Fault> {
    let metadata = Metadata::of(&metadata.to_string())?;
    let built = built::for_target(messages, TRIPLE)?;
    let parts = Parts::of(&metadata, "ours", &built)?;
    bom::of(MADE, &parts, &Checksums::of(lock)?, &around())
}

fn good() -> Value {
    serde_json::from_str(&bill(&metadata(), &messages(), &lock()).unwrap()).unwrap()
}

fn fault(metadata: &Value, messages: &str, lock: &str) -> String {
    bill(metadata, messages, lock).unwrap_err().to_string()
}

#[test]
fn what_was_compiled_for_the_target_is_in_it_and_nothing_else() {
    let bill = good();
    let names: Vec<&str> =
        bill["components"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["digits", "parse", "rust-std"], "no macro, no dependency of a test or of a build script");
}

#[test]
fn each_part_has_its_version_address_licence_and_checksum() {
    let bill = good();
    assert_eq!(
        bill["components"][0],
        json!({
            "type": "library", "scope": "required", "name": "digits", "version": "2.0.0+spec-1",
            "bom-ref": "pkg:cargo/digits@2.0.0%2Bspec-1", "purl": "pkg:cargo/digits@2.0.0%2Bspec-1",
            "description": "Wrapped words", "licenses": [{"license": {"id": "Zlib"}}],
            "externalReferences": [{"type": "vcs", "url": "https://example.org/digits"}],
            "hashes": [{"alg": "SHA-256", "content": "b".repeat(64)}],
        })
    );
    assert_eq!(bill["components"][1]["licenses"], json!([{"expression": "MIT OR Apache-2.0"}]));
}

#[test]
fn the_artefact_is_told_by_its_hash_and_its_tools() {
    let metadata = &good()["metadata"];
    let component = &metadata["component"];
    assert_eq!((&component["name"], &component["version"]), (&json!("ours.wasm"), &json!("0.1.0")));
    assert_eq!(component["hashes"][0]["content"], "93a44bbb96c751218e4c00d479e4c14358122a389acca16205b1e4d0dc5f9476");
    assert_eq!(component["purl"], "pkg:generic/ours@0.1.0", "no registry has it");
    assert_eq!(metadata["tools"]["components"], json!([{"type": "application", "name": "rustc", "version": "1.95.0"}]));
    assert!(metadata.get("timestamp").is_none(), "a time would differ from build to build");
}

#[test]
fn who_depends_on_whom_is_said_within_the_artefact() {
    assert_eq!(
        good()["dependencies"],
        json!([
            {"ref": "pkg:generic/ours@0.1.0", "dependsOn": ["pkg:cargo/parse@1.0.0", "pkg:generic/rust-std@1.95.0"]},
            {"ref": "pkg:cargo/digits@2.0.0%2Bspec-1", "dependsOn": []},
            {"ref": "pkg:cargo/parse@1.0.0", "dependsOn": ["pkg:cargo/digits@2.0.0%2Bspec-1"]},
            {"ref": "pkg:generic/rust-std@1.95.0"},
        ])
    );
}

#[test]
fn equal_builds_give_equal_bytes_and_another_gives_another_serial_number() {
    let once = bill(&metadata(), &messages(), &lock()).unwrap();
    assert_eq!(once, bill(&metadata(), &messages(), &lock()).unwrap());
    let other = bill(&metadata(), &messages(), &lock().replace('b', "c")).unwrap();
    let serial = |bill: &str| serde_json::from_str::<Value>(bill).unwrap()["serialNumber"].clone();
    assert!(serial(&once).as_str().unwrap().starts_with("urn:uuid:"));
    assert_ne!(serial(&once), serial(&other));
}

#[test]
fn what_is_missing_is_named_and_there_is_no_bill() {
    let mut no_licence = metadata();
    no_licence["packages"][1]["license"] = Value::Null;
    assert_eq!(
        fault(&no_licence, &messages(), &lock()),
        "parse 1.0.0: its manifest must name its licence as an SPDX expression, and names none"
    );

    let mut strange = metadata();
    strange["packages"][1]["license"] = json!("Ask me");
    let said = fault(&strange, &messages(), &lock());
    assert!(
        said.starts_with("parse: its licence must be an SPDX expression (\"MIT OR Apache-2.0\"), was \"Ask me\""),
        "{said}"
    );

    let said = fault(&metadata(), &messages(), "version = 4\n");
    assert_eq!(said, "Cargo.lock: digits 2.0.0+spec-1 comes from a registry and must have a checksum");
    assert!(fault(&metadata(), &messages(), "version = ").starts_with("Cargo.lock: "));

    let mut stray = metadata();
    stray["resolve"]["nodes"][1]["deps"] = json!([]);
    let said = fault(&stray, &messages(), &lock());
    assert!(said.ends_with("#digits@2.0.0+spec-1 was built, and ours does not depend on it"), "{said}");

    let said = fault(&metadata(), &messages().replace(TRIPLE, "release"), &lock());
    assert_eq!(said, "messages of the build: nothing was compiled for wasm32-unknown-unknown; was --target given?");
    assert!(fault(&metadata(), "warning: unused", &lock()).starts_with("messages of the build, line 1: "));
    assert!(fault(&json!({"packages": []}), &messages(), &lock()).starts_with("cargo metadata: "));
}

/// A folder of this test's own, empty.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// The build, with its sources in `crates`: `(package, file, text)`.
fn notices_of(crates: &Path, files: &[(&str, &str, &str)]) -> Result<String, Fault> {
    let mut told = metadata();
    for package in told["packages"].as_array_mut().unwrap() {
        let name = package["name"].as_str().unwrap().to_owned();
        fs::create_dir_all(crates.join(&name)).unwrap();
        package["manifest_path"] = json!(crates.join(&name).join("Cargo.toml"));
    }
    for (package, file, text) in files {
        fs::write(crates.join(package).join(file), text).unwrap();
    }
    let metadata = Metadata::of(&told.to_string()).unwrap();
    let built = built::for_target(&messages(), TRIPLE).unwrap();
    let parts = Parts::of(&metadata, "ours", &built).unwrap();
    notices::of(&[parts.clone(), parts], &[unwind(), unwind()])
}

fn unwind() -> Linked {
    Linked {
        name: "libunwind".to_owned(),
        version: "22.1.2".to_owned(),
        purl: String::new(),
        licence: "Apache-2.0 WITH LLVM-exception".to_owned(),
        copyright: "Copyright of many".to_owned(),
    }
}

#[test]
fn each_text_of_a_licence_stands_once_with_all_whose_it_is() {
    let files = [
        ("parse", "LICENSE-MIT", "Do as you like.\r\n"),
        ("parse", "COPYING", "By parse's authors."),
        ("parse", "README.md", "Not a licence."),
        ("digits", "license.txt", "Do as you like.\n\n"),
    ];
    let page = notices_of(&folder("notices"), &files).unwrap();
    assert!(
        page.contains("* digits 2.0.0+spec-1: Zlib\n* parse 1.0.0: MIT OR Apache-2.0\n* libunwind 22.1.2: "),
        "{page}"
    );
    assert!(page.contains("libunwind 22.1.2: Apache-2.0 WITH LLVM-exception. Copyright of many\n"), "{page}");
    assert_eq!(page.matches("* libunwind").count(), 1, "what both have in them is told once");
    for text in ["TERMS AND CONDITIONS FOR USE, REPRODUCTION", "LLVM Exceptions to the Apache 2.0 License"] {
        assert!(page.contains(text), "{text}");
    }
    assert_eq!(page.matches("Do as you like.").count(), 1);
    assert!(page.contains("\ndigits 2.0.0+spec-1, parse 1.0.0\n"), "{page}");
    assert!(page.contains("By parse's authors."));
    assert!(!page.contains("Not a licence") && !page.contains("ours"));
}

#[test]
fn a_part_without_the_text_of_its_licence_is_named() {
    let said = notices_of(&folder("no-notice"), &[("parse", "LICENSE", "Do as you like.")]).unwrap_err().to_string();
    assert!(said.starts_with("digits 2.0.0+spec-1: "), "{said}");
    assert!(said.ends_with("has no file with the text of its licence"), "{said}");

    let theirs = Linked { licence: "LicenseRef-theirs".to_owned(), ..unwind() };
    let said = notices::of(&[], &[theirs]).unwrap_err().to_string();
    assert_eq!(said, "libunwind 22.1.2: \"LicenseRef-theirs\" must name licences and exceptions of SPDX's list only");
}

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_holdfast-sbom")).args(arguments).output().unwrap()
}

#[test]
fn the_program_prints_the_bill_and_names_a_file_that_it_cannot_read() {
    let folder = folder("program");
    let file = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let [made, told, said, locked] = ["ours.wasm", "metadata", "messages", "Cargo.lock"].map(file);
    fs::write(&made, MADE).unwrap();
    fs::write(&told, metadata().to_string()).unwrap();
    fs::write(&said, messages()).unwrap();
    fs::write(&locked, lock()).unwrap();
    let linked = ["--linked", "rust-std", "1.95.0", "pkg:generic/rust-std@1.95.0", "MIT OR Apache-2.0", "Its authors"];
    let arguments = |lock| {
        let mut all = vec!["bom", "--artefact", &made, "--name", "ours.wasm", "--type", "library", "--lock", lock];
        all.extend(["--build", "ours", TRIPLE, &said, &told, "--tool", "rustc", "1.95.0"]);
        all.extend(linked);
        all
    };
    let output = run(&arguments(&locked));
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), bill(&metadata(), &messages(), &lock()).unwrap());

    let absent = file("absent.lock");
    let output = run(&arguments(&absent));
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("absent.lock: "));
    assert!(output.stdout.is_empty());
}
