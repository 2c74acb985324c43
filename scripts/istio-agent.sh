# shellcheck shell=bash disable=SC2154 # build.sh shares its variables with these files
# What Istio's own agent makes of both seats' resources: with a program built from its source, into a fixture for
# tests/envoy/agent.rs.

# Every version fetches the image; the fixture is of the newest.
istio_agent() { # PROGRAM [fixture]
  local resources=$root/tests/istio/agent/resources.yaml fixture=$root/tests/istio/fixtures/agent.json work
  work=$(scratch_dir agent)
  [[ -f $dist/image/index.json ]] || target_image >/dev/null
  "$1" generate --namespace shop "$resources" >"$work/istio.json" || die "Istio does not take ${resources#"$root/"}"
  "$1" agent --module "$module" --image "$dist/image" --archive "$dist/holdfast-image.tar" "$work/istio.json" >"$work/agent.json" ||
    die "Istio's agent does not take the image"
  [[ ${2-} == fixture ]] || return 0
  python3 - "$resources" "$work" >"$work/fixture.json" <<'PY'
import hashlib, json, pathlib, sys
resources, work = map(pathlib.Path, sys.argv[1:])
made = {name: json.loads((work / f"{name}.json").read_text(encoding="utf-8")) for name in ("istio", "agent")}
made["inputs_sha256"] = hashlib.sha256(resources.read_bytes()).hexdigest()
print(json.dumps(made, indent=1, sort_keys=True))
PY
  install_if_changed "$work/fixture.json" "$fixture" || true
}
