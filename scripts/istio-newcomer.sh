# shellcheck shell=bash disable=SC2154 # build.sh shares its variables with these files
# The five commands of envoy/istio/README.md, run as they stand there: with a registry on loopback in place of registry.example, and
# with a kubectl that gives the sample's resources and keeps what it is told to apply.

istio_newcomer() {
  local page=$root/envoy/istio/README.md work commands address
  work=$(scratch_dir newcomer)
  mapfile -t commands < <(awk '/^## Five commands/ { here = 1 } here && /^```sh/ { code = 1; next } code && /^```/ { exit } code' "$page")
  ((${#commands[@]} == 5)) || die "envoy/istio/README.md has ${#commands[@]} commands, not five"
  mkdir -p "$work/bin"
  GOBIN=$work/bin quietly newcomer-crane go install github.com/google/go-containerregistry/cmd/crane@v0.21.6 ||
    die "crane could not be built"
  cat >"$work/bin/kubectl" <<SH
#!/bin/sh
case "\$*" in
  '-n shop get '*) exec cat '$root/envoy/istio/sample/http1.yaml' ;;
  'apply -f '*) exec cp -- "\$3" '$work/applied.yaml' ;;
  *) echo "kubectl \$*: not among the five commands" >&2; exit 1 ;;
esac
SH
  printf '#!/bin/sh\nexec %q "$@"\n' "$root/build.sh" >"$work/build.sh"
  chmod +x "$work/bin/kubectl" "$work/build.sh"
  ln -s -- "$dist" "$work/dist"
  "$work/bin/crane" registry serve --address 127.0.0.1:0 >"$work/registry.log" 2>&1 &
  newcomer_registry=$!
  address=$(newcomer_follow "$work" "${commands[@]}") || { kill "$newcomer_registry"; die "the five commands fail: $(tail -5 "$work/commands.log")"; }
  "$work/bin/crane" export --insecure "$address/holdfast:0.1.0" - 2>/dev/null | tar -xOf - plugin.wasm | cmp - "$module" ||
    { kill "$newcomer_registry"; die "the registry has another module than dist/holdfast.wasm"; }
  kill "$newcomer_registry"
  # The first line is the command. The rest is the resource that tests/envoy/istio.rs drives until the breaker opens.
  diff <(sed 1d "$work/applied.yaml" | sed "s#$address#registry.example#") <(sed 1d "$root/envoy/istio/sidecar-http1.yaml") ||
    die "the five commands apply something else than envoy/istio/sidecar-http1.yaml"
  say "istio: the five commands push the module and apply what is driven"
}

# Runs the commands in the folder, once the registry has said where it is. Prints its address.
newcomer_follow() { # FOLDER COMMAND...
  local work=$1 address command tries
  shift
  for ((tries = 0; tries < 100; tries++)); do
    address=$(grep -o '127\.0\.0\.1:[0-9]*\|port [0-9]*' "$work/registry.log" | grep -o '[0-9]*$' | head -1)
    [[ -z $address ]] || break
    sleep 0.1
  done
  [[ -n $address ]] || return 1
  address=127.0.0.1:$address
  for command in "$@"; do
    (cd "$work" && PATH=$work/bin:$PATH bash -euo pipefail -c "${command//registry.example/$address}") \
      >>"$work/commands.log" 2>&1 || return 1
  done
  printf '%s\n' "$address"
}
