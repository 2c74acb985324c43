//! What Helm makes of the chart and of the values that `--helm` prints is what the program prints without it.
//!
//! With `HOLDFAST_HELM`, a path of Helm's own program, the chart is linted and rendered (`./build.sh istio` does that), and what was seen
//! is noted in `tests/helm/rendered.json`: a hash of the chart, of the values and of the resource for each sample. Without it the notes
//! must be of the files as they stand.

// Clippy allows it in test functions only, and not in the helpers that they share.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use common::{command, root};
use serde_norway::Value;
use sha2::{Digest, Sha256};

const CHART: &str = "envoy/helm/holdfast";
const NOTES: &str = "tests/helm/rendered.json";

/// Each sample that can be said in values: its name, its text, and the values.
fn samples() -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join("envoy/istio")).unwrap() {
        let path = entry.unwrap().path();
        let Some(text) = path.extension().filter(|ext| *ext == "yaml").map(|_| fs::read_to_string(&path).unwrap())
        else {
            continue;
        };
        let Some(mut arguments) = command(&text) else { continue };
        arguments.push("--helm".to_owned());
        let add =
            Command::new(env!("CARGO_BIN_EXE_holdfast-add")).args(arguments).current_dir(root()).output().unwrap();
        if add.status.success() {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            found.push((name, text, String::from_utf8(add.stdout).unwrap()));
        }
    }
    found.sort();
    found
}

/// The chart's files, one after the other.
fn chart() -> String {
    let chart = root().join(CHART);
    let names =
        ["Chart.yaml", "values.yaml", "values.schema.json", "templates/_filters.tpl", "templates/envoyfilter.yaml"];
    names.iter().map(|name| fs::read_to_string(chart.join(name)).unwrap()).collect()
}

fn hash(parts: &[&str]) -> String {
    let digest = Sha256::digest(parts.join("\0"));
    digest.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn documents(text: &str) -> Vec<Value> {
    let documents = serde_norway::Deserializer::from_str(text);
    let read = documents.map(|document| <Value as serde::Deserialize>::deserialize(document).unwrap());
    read.filter(|value| !value.is_null()).collect()
}

fn helm(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(root()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "helm {arguments:?}: {said}{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_chart_makes_of_its_values_what_the_program_prints() {
    let samples = samples();
    assert!(samples.len() >= 14, "so many can be said in values: {}", samples.len());
    let chart = chart();
    let hashes: BTreeMap<&str, String> =
        samples.iter().map(|(name, text, values)| (name.as_str(), hash(&[&chart, values, text]))).collect();
    let notes = root().join(NOTES);
    if let Ok(program) = std::env::var("HOLDFAST_HELM") {
        let directory = tempfile::tempdir().unwrap();
        for (name, text, values) in &samples {
            let file = directory.path().join("values.yaml");
            fs::write(&file, values).unwrap();
            let file = file.to_str().unwrap();
            helm(&program, &["lint", "--strict", CHART, "--values", file]);
            let rendered = helm(&program, &["template", "holdfast", CHART, "--values", file]);
            assert_eq!(documents(&rendered), documents(text), "{name}");
        }
        let of_the_sample = helm(&program, &["template", "holdfast", CHART]);
        let sample = fs::read_to_string(root().join("envoy/istio/sidecar-http1.yaml")).unwrap();
        assert_eq!(documents(&of_the_sample), documents(&sample), "without any values");
        fs::write(&notes, serde_json::to_string_pretty(&hashes).unwrap() + "\n").unwrap();
    }
    let seen: BTreeMap<String, String> = serde_json::from_str(&fs::read_to_string(&notes).unwrap()).unwrap();
    for (name, hash) in &hashes {
        let what = "Helm has not rendered it as it stands: ./build.sh istio does";
        assert_eq!(seen.get(*name), Some(hash), "{name}: {what}");
    }
    assert_eq!(seen.len(), hashes.len(), "{NOTES} is of these samples");
}
