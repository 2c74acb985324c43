# shellcheck shell=bash disable=SC2154,SC2034 # build.sh shares its variables with these files
# The Prometheus that tests scrape Envoy with. PROMETHEUS=PATH names one's own; otherwise it is the one on the path, or the binary
# of Debian's package, kept in .cache. The package itself is not installed, because that would start a server.

prometheus= # the program, once ensured

ensure_prometheus() {
  if [[ -n ${PROMETHEUS-} ]]; then
    prometheus=$(own_program PROMETHEUS)
  elif ! prometheus=$(type -P prometheus); then
    prometheus=$cache/prometheus/prometheus
    [[ -x $prometheus ]] || fetch_prometheus
  fi
}

# Only the one file is taken out of the package.
fetch_prometheus() {
  local work
  { have apt-get && have dpkg-deb; } || no_prometheus
  say "prometheus: downloading Debian's package"
  work=$(scratch_dir prometheus)
  read_apt_lists || true # who may not read them goes on with those that are there
  (cd "$work" && quietly prometheus apt-get download prometheus) || no_prometheus
  dpkg-deb -x "$work"/prometheus_*.deb "$work/package"
  "$work/package/usr/bin/prometheus" --version >/dev/null 2>&1 || no_prometheus
  mkdir -p "$(dirname -- "$prometheus")"
  mv -- "$work/package/usr/bin/prometheus" "$prometheus"
}

no_prometheus() {
  die "the tests scrape Envoy with a Prometheus, and none could be had: put one on the path, or name it: PROMETHEUS=PATH"
}
