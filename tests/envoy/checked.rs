//! What `check` calls an error because Envoy refuses it, the real Envoy refuses.

use std::path::Path;

use holdfast_tests::{Envoy, EnvoyOptions, wasm_module};

use crate::edited::{self, Fate};

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/check/tests/fixtures/rules")
}

/// A configuration with the module that is tested.
fn placed(text: &str) -> EnvoyOptions {
    EnvoyOptions::new().bootstrap(text.replace("/etc/envoy/holdfast.wasm", wasm_module().unwrap().to_str().unwrap()))
}

#[tokio::test]
async fn envoy_takes_the_configuration_with_nothing_wrong() {
    let base = std::fs::read_to_string(folder().join("base.yaml")).unwrap();
    Envoy::validate(placed(&base)).await.unwrap();
}

#[tokio::test]
async fn envoy_refuses_what_is_said_to_be_refused() {
    let mut refused = 0;
    for one in edited::all(&folder()).iter().filter(|one| one.fate != Fate::Taken) {
        let error = Envoy::validate(placed(&one.text)).await.expect_err(&one.name);
        let said = error.log.contains("error initializing configuration");
        assert_eq!(said, one.fate == Fate::Refused, "{}: {}", one.name, error.log);
        refused += 1;
    }
    assert!(refused >= 14, "{refused}");
}
