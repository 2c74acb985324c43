# shellcheck shell=bash disable=SC2154,SC2034 # build.sh shares its variables with these files
# Drives the language servers of editors with the JSON Schema. Their packages are kept in .cache, for each lock file its own.

readonly editor_source=$root/tests/editor

ensure_npm() {
  ensure_node
  have npm || apt_install npm || die "the tests of editors need npm: install the package npm"
}

editor_packages= # where they are, once ensured
ensure_editor_packages() {
  local lock work
  lock=$(sha256sum -- "$editor_source/package-lock.json")
  editor_packages=$cache/editor-${lock:0:16}
  [[ ! -d $editor_packages ]] || return 0
  ensure_npm
  say "editor tests: installing the language servers"
  work=$(scratch_dir editor)
  cp -- "$editor_source"/package{,-lock}.json "$work"
  (cd "$work" && quietly editor npm ci --ignore-scripts --no-audit --no-fund) ||
    die "the language servers could not be installed"
  mv -- "$work" "$editor_packages"
}

editor_tests() {
  local log
  log=$(log_of editor)
  ensure_node
  ensure_editor_packages
  HOLDFAST_EDITOR_PACKAGES=$editor_packages node --test --test-reporter=tap "$editor_source"/*.test.mjs | tee -- "$log"
  # The runner is content with no test at all.
  (($(passed_in "$log") > 0)) || die "no test of editors ran"
}
