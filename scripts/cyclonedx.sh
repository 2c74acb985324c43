# shellcheck shell=bash disable=SC2154,SC2034 # build.sh shares its variables with these files
# CycloneDX's own validator, as the Python package that carries its schemas, kept in .cache.

readonly cyclonedx_version=11.12.0
readonly cyclonedx=$cache/cyclonedx-$cyclonedx_version # a folder for PYTHONPATH

# A folder of its own needs no virtual environment.
ensure_cyclonedx() {
  local work
  [[ ! -d $cyclonedx ]] || return 0
  have python3 || die "validating the bills of materials needs python3"
  python3 -m pip --version >/dev/null 2>&1 ||
    die "getting CycloneDX's validator needs pip for python3: apt-get install python3-pip"
  say "dist: getting CycloneDX's validator $cyclonedx_version"
  work=$(scratch_dir cyclonedx)
  quietly cyclonedx python3 -m pip install --disable-pip-version-check --target "$work/packages" \
    "cyclonedx-python-lib[json-validation]==$cyclonedx_version" || die "CycloneDX's validator could not be had"
  mv -- "$work/packages" "$cyclonedx"
}
