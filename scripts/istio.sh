# shellcheck shell=bash disable=SC2154,SC2034 # build.sh shares its variables with these files
# The proof of Istio's resources: Istio's own generator, built from its source in the newest version and the oldest that can be had,
# judges them, serves them to the real Envoy, and writes the fixtures that `./build.sh test` runs without Go.

# Each with its go.mod in tests/istio/; the last one writes the fixtures.
readonly istio_versions=(oldest newest)

istio_generator= # the program of a version, once ensured
helm= # Helm's own program, once ensured

istio_proof() {
  local version renew
  have go || die "istio builds Istio's own generator: install Go 1.26 or later (apt-get install golang)"
  build_module
  target_image >/dev/null
  ensure_envoy
  for version in "${istio_versions[@]}"; do
    ensure_istio_generator "$version"
    istio_resources_are_valid "$version"
    renew=
    if [[ $version == newest ]]; then
      renew=1
      istio_agent "$istio_generator" fixture
    else
      istio_agent "$istio_generator"
    fi
    say "istio: driving Envoy behind Istio's $version generator"
    (cd "$root" && HOLDFAST_WASM=$module HOLDFAST_ENVOY=$envoy HOLDFAST_ISTIO=$istio_generator HOLDFAST_ISTIO_RENEW=$renew \
      RUST_TEST_THREADS=${RUST_TEST_THREADS:-2} cargo test -p holdfast-tests --test envoy -- istio:: istio_failover::) ||
      die "what Istio's $version generator makes does not do in Envoy what it should"
  done
  ensure_helm
  say "istio: Helm lints and renders envoy/helm"
  (cd "$root" && HOLDFAST_HELM=$helm cargo test -q -p holdfast-add --test chart) || die "the chart does not make what add prints"
  istio_newcomer
  say "istio: both versions passed; git diff tests/istio/fixtures shows what has changed"
}

# Istio's own validation of whatever people copy. Fragments of resources are not among them.
istio_resources_are_valid() { # VERSION
  local file files=("$root/envoy/observability/istio-telemetry.yaml")
  for file in "$root"/envoy/istio/*.yaml; do
    [[ $(basename -- "$file") == pod-* || $(basename -- "$file") == mesh-config.yaml ]] || files+=("$file")
  done
  say "istio: $1 judges ${#files[@]} files"
  "$istio_generator" validate "${files[@]}" || die "Istio's $1 validation refuses them"
}

# Built again where its source has changed.
ensure_istio_generator() { # newest|oldest
  local mod=go.mod sources
  [[ $1 == newest ]] || mod=$1.mod
  istio_generator=$cache/istio/holdfast-istio-$1
  sources=$(cat -- "$root"/tests/istio/*.go "$root/tests/istio/$mod" | sha256sum)
  ! is_sealed "$istio_generator" "$sources" || return 0
  mkdir -p "$cache/istio"
  say "istio: building the $1 version of Istio's generator (the first time ten minutes)"
  (cd "$root/tests/istio" && quietly "istio-build-$1" nice go build -trimpath -modfile "$mod" -o "$istio_generator" .) ||
    die "Istio's generator could not be built"
  seal "$istio_generator" "$sources"
}

# Built from its source, by the version in tests/helm/go.mod.
ensure_helm() {
  local sources
  helm=$cache/helm/helm
  sources=$(sha256sum <"$root/tests/helm/go.mod")
  ! is_sealed "$helm" "$sources" || return 0
  mkdir -p "$cache/helm"
  say "istio: building Helm (the first time five minutes)"
  (cd "$root/tests/helm" && quietly helm-build nice go build -trimpath -o "$helm" helm.sh/helm/v4/cmd/helm) ||
    die "Helm could not be built"
  seal "$helm" "$sources"
}
