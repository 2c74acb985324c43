# shellcheck shell=bash disable=SC2154,SC2034 # build.sh shares its variables with these files
# Runs the pure crate's unit tests as WebAssembly in Node: 32-bit words and saturating casts are what ships.

# The runner must be of exactly the version of wasm-bindgen that the lock file has.
locked_wasm_bindgen() {
  awk '$1 == "name" { name = $3 } $1 == "version" && name == "\"wasm-bindgen\"" { gsub(/"/, "", $3); print $3; exit }' "$root/Cargo.lock"
}

ensure_node() {
  have node || apt_install nodejs || die "the WebAssembly tests need Node 18 or later: install the package nodejs"
  local major
  major=$(node --version | sed 's/^v\([0-9]*\).*/\1/')
  ((major >= 18)) || die "the WebAssembly tests need Node 18 or later, and this is $(node --version)"
}

# Built without optimisation: it runs for seconds and builds in half the time.
ensure_runner() { # VERSION ROOT
  [[ ! -x $2/bin/wasm-bindgen-test-runner ]] || return 0
  say "wasm tests: building wasm-bindgen-test-runner $1 (once, about a minute)"
  quietly wasm-bindgen env -u CARGO_TARGET_DIR CARGO_PROFILE_RELEASE_OPT_LEVEL=0 \
    CARGO_RESOLVER_INCOMPATIBLE_RUST_VERSIONS=fallback \
    cargo install wasm-bindgen-cli --version "=$1" --no-default-features --bin wasm-bindgen-test-runner --root "$2" ||
    die "wasm-bindgen-test-runner $1 could not be built"
}

wasm_tests() {
  local version tools log
  log=$(log_of wasm)
  version=$(locked_wasm_bindgen)
  [[ -n $version ]] || die "Cargo.lock has no wasm-bindgen: is wasm-bindgen-test still a dev-dependency of holdfast-engine?"
  tools=$cache/wasm-bindgen-$version
  ensure_node
  ensure_runner "$version" "$tools"
  CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER=$tools/bin/wasm-bindgen-test-runner \
    wasm_cargo test -p holdfast-engine -p holdfast-policy --lib | tee -- "$log"
  # The runner is content with no test at all.
  (($(passed_in "$log") > 0)) || die "no test ran as WebAssembly"
}
