# shellcheck shell=bash disable=SC2154,SC2034 # build.sh shares its variables with these files
# Runs the tests, part by part, and says what became of each.

readonly all_parts=(unit host envoy wasm editor dist)

test_parts() { # PART...
  local part parts=() lines=()
  for part in "$@"; do
    [[ " ${all_parts[*]} " == *" $part "* ]] || die "test takes ${all_parts[*]}, or nothing for all of them, not '$part'"
  done
  # Each once, in this order.
  for part in "${all_parts[@]}"; do
    [[ $# -gt 0 && " $* " != *" $part "* ]] || parts+=("$part")
  done
  if [[ " ${parts[*]} " == *" host "* || " ${parts[*]} " == *" envoy "* ]]; then
    timed module build_module
    lines+=("Before them: the module in ${took[module]} s")
  fi
  if [[ " ${parts[*]} " == *" envoy "* ]]; then
    timed fetching ensure_servers
    lines[0]+=", Envoy, Prometheus and Alertmanager in ${took[fetching]} s"
  fi
  for part in "${parts[@]}"; do
    timed "$part" "${part}_tests"
  done
  for part in "${parts[@]}"; do
    lines+=("$part: $(passed_in "$(log_of "$part")") passed in ${took[$part]} s")
  done
  say "All tests passed:"
  printf '  %s\n' "${lines[@]}" >&2
}

ensure_servers() {
  ensure_envoy
  ensure_prometheus
  ensure_alertmanager
}

log_of() { # PART
  printf '%s\n' "$cache/test-$1.log"
}

# All parts are built from the same packages, so that what they depend on is built once.
native_tests() { # NAME THREADS ARG...
  local log
  log=$(log_of "$1")
  (cd "$root" && RUST_TEST_THREADS=${RUST_TEST_THREADS:-$2} cargo test "${@:3}") | tee -- "$log"
  # Cargo is content with no test at all.
  (($(passed_in "$log") > 0)) || die "no test ran: cargo test ${*:3}"
}

# Whatever is none of the three below.
unit_tests() {
  local name names targets=(--lib --bins --examples)
  names=$(test_targets)
  [[ $names == *host* && $names == *envoy* && $names == *dist* ]] ||
    die "cargo metadata does not name the tests host, envoy and dist"
  for name in $names; do
    [[ $name == host || $name == envoy || $name == dist ]] || targets+=(--test "$name")
  done
  native_tests unit "$(nproc)" "${targets[@]}"
  native_tests unit-doc "$(nproc)" --doc
  cat -- "$(log_of unit-doc)" >>"$(log_of unit)"
}

test_targets() {
  (cd "$root" && cargo metadata --no-deps --format-version 1) |
    grep -o '"kind":\["test"\],[^}]*"name":"[^"]*"' | sed 's/.*"name":"\([^"]*\)"$/\1/'
}

host_tests() {
  HOLDFAST_WASM=$module native_tests host "$(nproc)" --test host
}

# These mostly wait, for an Envoy or for a time to pass: four at a time keep a core at work.
envoy_tests() {
  cargo build -q --manifest-path "$root/Cargo.toml" -p holdfast-cli
  HOLDFAST_WASM=$module HOLDFAST_ENVOY=$envoy HOLDFAST_PROGRAM=$target_dir/debug/holdfast \
    HOLDFAST_PROMETHEUS=$prometheus HOLDFAST_PROMTOOL=$promtool HOLDFAST_ALERTMANAGER=$alertmanager HOLDFAST_AMTOOL=$amtool \
    native_tests envoy "$((4 * $(nproc)))" --test envoy
}

# The release is made twice, and read. Helm judges the chart where it has been built.
dist_tests() {
  [[ ! -x $cache/helm/helm ]] || export HOLDFAST_HELM=$cache/helm/helm
  verify_release
  ensure_cyclonedx
  ensure_envoy
  HOLDFAST_RELEASE=$release HOLDFAST_CYCLONEDX=$cyclonedx HOLDFAST_ENVOY=$envoy native_tests dist "$(nproc)" --test dist
}
