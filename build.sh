#!/usr/bin/env bash
# Builds, tests and shows Holdfast: the one entry. Without an argument it lists its targets.
#
# A target is a function `target_NAME` below; the `#: ` line above it is its line in that list.
set -euo pipefail

caller_dir=$PWD
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
cache=$root/.cache
dist=$root/dist
module=$dist/holdfast.wasm
target_dir=$(cd -- "$caller_dir" && realpath -m -- "${CARGO_TARGET_DIR:-$root/target}")
export CARGO_TARGET_DIR=$target_dir # cargo runs from several directories; a relative one would move
readonly caller_dir root cache dist module target_dir

# shellcheck source=scripts/common.sh
source "$root/scripts/common.sh"
# shellcheck source=scripts/toolchain.sh
source "$root/scripts/toolchain.sh"
# shellcheck source=scripts/module.sh
source "$root/scripts/module.sh"
# shellcheck source=scripts/program.sh
source "$root/scripts/program.sh"
# shellcheck source=scripts/dist.sh
source "$root/scripts/dist.sh"
# shellcheck source=scripts/cyclonedx.sh
source "$root/scripts/cyclonedx.sh"
# shellcheck source=scripts/envoy.sh
source "$root/scripts/envoy.sh"
# shellcheck source=scripts/prometheus.sh
source "$root/scripts/prometheus.sh"
# shellcheck source=scripts/tests.sh
source "$root/scripts/tests.sh"
# shellcheck source=scripts/wasm-tests.sh
source "$root/scripts/wasm-tests.sh"
# shellcheck source=scripts/editor.sh
source "$root/scripts/editor.sh"
# shellcheck source=scripts/fuzz.sh
source "$root/scripts/fuzz.sh"
# shellcheck source=scripts/lint.sh
source "$root/scripts/lint.sh"
# shellcheck source=scripts/bench.sh
source "$root/scripts/bench.sh"
# shellcheck source=scripts/istio-agent.sh
source "$root/scripts/istio-agent.sh"
# shellcheck source=scripts/istio-newcomer.sh
source "$root/scripts/istio-newcomer.sh"
# shellcheck source=scripts/istio.sh
source "$root/scripts/istio.sh"
# shellcheck source=scripts/gateway.sh
source "$root/scripts/gateway.sh"

#: build            makes dist/holdfast.wasm
target_build() {
  build_module
}

#: image            packs the module into an OCI image, without a container engine: dist/image/ and dist/holdfast-image.tar; prints its digest
target_image() {
  build_module
  cargo run -q --manifest-path "$root/Cargo.toml" -p holdfast-image -- "$module" "$dist/image" "$dist/holdfast-image.tar"
}

#: dist [--verify]  makes what is released, in dist/release/; --verify makes it twice, in two places, and compares
target_dist() {
  case ${1-} in
    '') make_release ;;
    --verify) verify_release ;;
    *) die "dist takes --verify or nothing, not '$1'" ;;
  esac
}

#: demo [ARG...]    shows breaker, fallback, retries and ejection on a real Envoy, with and without Holdfast; writes dist/demo.html
target_demo() {
  build_module
  ensure_envoy
  cd "$caller_dir" # a relative path in ARG is the caller's
  cargo run --release -q --manifest-path "$root/Cargo.toml" -p holdfast-demo -- \
    --module "$module" --envoy "$envoy" --out "$dist/demo.html" "$@"
}

#: test [PART...]   runs every test, or these parts: unit, host (the module in process), envoy (on a real one), wasm (unit tests in Node),
#:                  editor (language servers with the JSON Schema), dist (the release, made twice)
target_test() {
  test_parts "$@"
}

#: fuzz [SECONDS]   feeds any bytes to whatever reads bytes from outside, 20 seconds for each of the targets in fuzz/
target_fuzz() {
  fuzz_all "${1:-20}"
}

#: bench [ARG...]   measures what a request costs on a real Envoy, beside no-op filters and peers; writes dist/bench.json, bench.svg
#: bench decisions  measures the cost of a decision, natively and as WebAssembly in V8; writes dist/bench-decisions.json
target_bench() {
  case ${1-} in
    decisions) bench_decisions ;;
    *) bench_envoy "$@" ;;
  esac
}

#: check FILE...    says whether policy documents are valid, by themselves or in a configuration, and what is wrong around them
#: check --reference  prints the reference of all keys of a policy, which is docs/policy.md
#: check --schema   prints the JSON Schema of policy documents, which is docs/policy.schema.json
#: check --rules    prints the table of what else is looked at, which is in docs/check.md
target_check() {
  cd "$caller_dir" # a relative FILE is the caller's
  cargo run -q --manifest-path "$root/Cargo.toml" -p holdfast-check -- "$@"
}

#: add ENVOY.yaml... --cluster NAME [--policy FILE] [--write]  puts Holdfast into an Envoy configuration, and shows a diff
#: add --istio HOST:PORT... [RESOURCES.yaml...]  prints the resources that put Holdfast before a service, from those that it has
#: add --envoy-gateway HOST:PORT... RESOURCES.yaml...  the same for Envoy Gateway
#: add --help       lists what else it takes: --namespace, --gateway, --policy, --module
target_add() {
  cd "$caller_dir" # a relative path is the caller's
  cargo run -q --manifest-path "$root/Cargo.toml" -p holdfast-add -- "$@"
}

#: wrap POLICY --output FILE  wraps a policy document for an Envoy that follows it from a file, as envoy/live/ does
target_wrap() {
  cd "$caller_dir" # a relative path is the caller's
  cargo run -q --manifest-path "$root/Cargo.toml" -p holdfast-cli -- wrap "$@"
}

#: istio            proves Istio's resources over its own generator, two versions, and makes the fixtures of tests/istio/ anew (needs Go)
target_istio() {
  istio_proof
}

#: gateway          makes the fixtures of tests/gateway/ anew by Envoy Gateway's own translators (needs Go)
target_gateway() {
  gateway_fixtures
}

#: lint             format, layers, clippy, documentation and dependencies, warnings are errors: native code, the module, fuzz/, shell scripts
target_lint() {
  cd "$root"
  cargo fmt --all --check
  lint_layers
  cargo clippy --all-targets -- -D warnings
  wasm_clippy "${wasm_packages[@]}" -- -D warnings
  lint_fuzz
  lint_documentation
  lint_dependencies
  lint_scripts
}

#: envoy            gets the Envoy that tests and demo run, and prints its path (ENVOY=PATH, ENVOY_VERSION=X.Y.Z)
target_envoy() {
  ensure_envoy
  printf '%s\n' "$envoy"
}

#: prometheus       gets the Prometheus that the tests scrape Envoy with, and prints its path (PROMETHEUS=PATH)
target_prometheus() {
  ensure_prometheus
  printf '%s\n' "$prometheus"
}

#: alertmanager     gets the Alertmanager that the tests send alerts to, and prints its path (ALERTMANAGER=PATH)
target_alertmanager() {
  ensure_alertmanager
  printf '%s\n' "$alertmanager"
}

#: clean [--all]    removes what was built; --all also what was downloaded
target_clean() {
  case ${1-} in
    '') rm -rf -- "$root/target" "$dist" ;;
    --all) rm -rf -- "$root/target" "$dist" "$cache" ;;
    *) die "clean takes --all or nothing, not '$1'" ;;
  esac
}

# The list is read from this file, so that it cannot fall behind.
usage() {
  printf 'usage: ./build.sh TARGET [ARG...]\n\n'
  sed -n 's/^#: /  /p' "${BASH_SOURCE[0]}"
}

main() {
  local name=${1-}
  case $name in
    '' | help | -h | --help) usage ;;
    *)
      if ! declare -F "target_$name" >/dev/null; then
        usage >&2
        die "there is no target '$name'"
      fi
      shift
      mkdir -p "$cache"
      "target_$name" "$@"
      ;;
  esac
}

main "$@"
