# shellcheck shell=bash disable=SC2154,SC2034 # build.sh shares its variables with these files
# The Prometheus that tests scrape Envoy with, the Alertmanager that it sends alerts to, and the tools of both. PROMETHEUS=PATH,
# PROMTOOL=PATH, ALERTMANAGER=PATH and AMTOOL=PATH name one's own; otherwise each is the one on the path, or the binary of
# Debian's package, kept in .cache. The packages themselves are not installed, because that would start servers.

prometheus= # the programs, once ensured
promtool=
alertmanager=
amtool=

ensure_prometheus() {
  find_program prometheus PROMETHEUS prometheus prometheus
  find_tool promtool PROMTOOL prometheus "$prometheus"
}

ensure_alertmanager() {
  find_program alertmanager ALERTMANAGER prometheus-alertmanager prometheus-alertmanager alertmanager
  find_tool amtool AMTOOL prometheus-alertmanager "$alertmanager"
}

# A server's tool mostly stands beside it.
find_tool() { # NAME NAME_OF_OWN PACKAGE SERVER
  local beside
  beside=$(dirname -- "$4")/$1
  if [[ -z ${!2-} && -x $beside ]]; then
    printf -v "$1" '%s' "$beside"
  else
    find_program "$1" "$2" "$3" "$1"
  fi
}

# Sets the variable of this name to one's own program, to the first of NAME... on the path, or to what Debian's PACKAGE has under
# the first of them.
find_program() { # NAME_OF_VARIABLE NAME_OF_OWN PACKAGE NAME...
  local variable=$1 own=$2 package=$3 name found=
  shift 3
  if [[ -n ${!own-} ]]; then
    found=$(own_program "$own")
  else
    for name in "$@"; do
      [[ -n $found ]] || found=$(type -P -- "$name" || true)
    done
    if [[ -z $found ]]; then
      found=$cache/$package/$1
      [[ -x $found ]] || fetch_program "$package" "$1" "$own"
    fi
  fi
  printf -v "$variable" '%s' "$found"
}

# Only the one file is taken out of the package.
fetch_program() { # PACKAGE NAME NAME_OF_OWN
  local work
  { have apt-get && have dpkg-deb; } || no_program "$2" "$3"
  say "$2: downloading Debian's package"
  work=$(scratch_dir "$1")
  if ! compgen -G "$work/$1_*.deb" >/dev/null; then
    read_apt_lists || true # who may not read them goes on with those that are there
    (cd "$work" && quietly "$1" apt-get download "$1") || no_program "$2" "$3"
    dpkg-deb -x "$work/$1"_*.deb "$work/package"
  fi
  mkdir -p "$cache/$1"
  [[ $2 != prometheus-alertmanager ]] || bring_templates "$work/package" "$cache/$1"
  "$work/package/usr/bin/$2" --version >/dev/null 2>&1 || no_program "$2" "$3"
  mv -- "$work/package/usr/bin/$2" "$cache/$1/$2"
}

# Debian's Alertmanager reads its templates where the package installs them, and does not start without. The copy that is kept
# reads them in the directory that it is started in, by a path of the same number of bytes. The tests put them there.
bring_templates() { # PACKAGE_DIR TO
  local installed=/usr/share/prometheus/alertmanager here=././././././././././././././././././
  LC_ALL=C sed -i "s#$installed\([^/]\)#${here:0:${#installed}}\1#g" "$1/usr/bin/prometheus-alertmanager"
  cp -- "$1$installed"/*.tmpl "$2/"
}

no_program() { # NAME NAME_OF_OWN
  die "the tests run a $1, and none could be had: put one on the path, or name it: $2=PATH"
}
