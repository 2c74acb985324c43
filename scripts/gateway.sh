# shellcheck shell=bash disable=SC2154 # build.sh shares its variables with these files
# What Envoy Gateway makes of envoy/gateway/ and of tests/gateway/cases/: its own translators, built from its source, write the
# fixtures that tests/envoy/gateway.rs loads into a real Envoy.

readonly gateway_version=v1.9.1
# The checksum of that source in Go's database: what is built is what was reviewed.
readonly gateway_sum=h1:vAVp6/AlBXJ1aOhp1mxL7fNEzVEfjADUguUhm2wzxQY=
readonly gateway_cases=$root/tests/gateway/cases
readonly gateway_fixtures=$root/tests/gateway/fixtures

gateway_translator= # the program, once ensured

gateway_fixtures() {
  local case fixture work
  have python3 || die "gateway needs python3"
  target_image >/dev/null
  ensure_gateway_translator
  mkdir -p "$gateway_fixtures"
  for case in "$gateway_cases"/*.yaml; do
    fixture=$gateway_fixtures/$(basename -- "$case" .yaml).json
    work=$(scratch_dir gateway)
    mapfile -t inputs < <(gateway_inputs "$case")
    "$gateway_translator" --image "$dist/image" "${inputs[@]}" >"$work/xds.json" ||
      die "Envoy Gateway does not take ${inputs[*]}"
    python3 "$root/scripts/gateway_fixture.py" "$gateway_version" "$work/xds.json" "${inputs[@]}" >"$work/fixture.json"
    install_if_changed "$work/fixture.json" "$fixture" || true
    say "gateway: ${fixture#"$root/"}"
  done
}

# Its first line names what else goes in.
gateway_inputs() { # CASE
  local inputs=()
  read -ra inputs < <(sed -n '1s/^# inputs: //p' "$1") || true
  ((${#inputs[@]} == 0)) || printf '%s\n' "${inputs[@]/#/"$root/"}"
  printf '%s\n' "$1"
}

# A program of ours within a copy of Envoy Gateway's source: what it calls is internal there.
ensure_gateway_translator() {
  local source=$cache/gateway-$gateway_version/source sources
  have go || die "gateway builds Envoy Gateway's translators: install Go 1.26 or later (apt-get install golang)"
  gateway_translator=$cache/gateway-$gateway_version/holdfast-translate
  sources=$(sha256sum <"$root/tests/gateway/translate/main.go")
  ! is_sealed "$gateway_translator" "$sources" || return 0
  [[ -d $source ]] || fetch_gateway_source "$source"
  mkdir -p "$source/cmd/holdfast-translate"
  cp -- "$root/tests/gateway/translate/main.go" "$source/cmd/holdfast-translate/"
  say "gateway: building the translators of Envoy Gateway $gateway_version (the first time ten minutes)"
  (cd "$source" && quietly gateway-build nice go build -o "$gateway_translator" ./cmd/holdfast-translate) ||
    die "the translators could not be built"
  seal "$gateway_translator" "$sources"
}

fetch_gateway_source() { # FOLDER
  local module
  module=$(cd "$(scratch_dir module-of-none)" && go mod download -json "github.com/envoyproxy/gateway@$gateway_version") ||
    die "the source of Envoy Gateway $gateway_version could not be downloaded"
  [[ $module == *"\"Sum\": \"$gateway_sum\""* ]] || die "the source of Envoy Gateway $gateway_version is not the one that was reviewed"
  mkdir -p "$(dirname -- "$1")"
  cp -r -- "$(sed -n 's/.*"Dir": "\(.*\)".*/\1/p' <<<"$module")" "$1.new"
  chmod -R u+w -- "$1.new"
  mv -- "$1.new" "$1"
}
