# shellcheck shell=bash disable=SC2154,SC2034 # build.sh shares its variables with these files
# What lint checks beside format and clippy of the workspace: the fuzz targets, links in the documentation, what is depended on
# (deny.toml), and shell scripts.

readonly wasm_packages=(-p holdfast -p holdfast-bench-noop -p holdfast-bench-noop-lean)
readonly deny_version=0.20.2
readonly deny_tools=$cache/cargo-deny-$deny_version

# A workspace of its own, built where `fuzz` builds.
lint_fuzz() {
  ensure_cxx
  cargo fmt --manifest-path "$root/fuzz/Cargo.toml" --check
  CARGO_TARGET_DIR=$target_dir/fuzz cargo clippy --manifest-path "$root/fuzz/Cargo.toml" --all-targets -- -D warnings
}

# A link to an item that is gone is an error, in private documentation too.
lint_documentation() {
  RUSTDOCFLAGS="-D warnings" cargo doc -q --no-deps --document-private-items
  wasm_doc -q --no-deps --document-private-items "${wasm_packages[@]}"
}

# Licences, second versions and sources, by both lock files. The database of advisories is on a server of its own, which a
# machine with registries only does not reach; it changes daily, and so is no matter of a commit.
lint_dependencies() {
  ensure_cargo_deny
  cargo_deny Cargo.toml --workspace
  cargo_deny fuzz/Cargo.toml
}

# Which exceptions the other lock file needs is no matter here.
cargo_deny() { # MANIFEST ARG...
  "$deny_tools/bin/cargo-deny" --locked --manifest-path "$root/$1" --config "$root/deny.toml" "${@:2}" \
    check -A unmatched-skip licenses bans sources
}

ensure_cargo_deny() {
  [[ ! -x $deny_tools/bin/cargo-deny ]] || return 0
  say "lint: building cargo-deny $deny_version (once, about a minute)"
  quietly cargo-deny env -u CARGO_TARGET_DIR -u RUSTFLAGS CARGO_PROFILE_RELEASE_OPT_LEVEL=0 \
    cargo install cargo-deny --version "=$deny_version" --locked --root "$deny_tools" ||
    die "cargo-deny $deny_version could not be built"
}

# Rooms only look down, no feature imports another, no two files import each other.
lint_layers() {
  have python3 || die "the check of layers needs python3"
  python3 "$root/scripts/layers.py" || die "the layers of filter/ are not kept: see scripts/layers.py"
}

# Where each of them stands, it finds what it sources.
lint_scripts() {
  local scripts
  have shellcheck || apt_install shellcheck || die "lint checks shell scripts with shellcheck: apt-get install shellcheck"
  mapfile -t scripts < <(shell_scripts)
  ((${#scripts[@]} > 0)) || die "lint found no shell script"
  (cd "$root" && shellcheck --external-sources -- "${scripts[@]}")
}

# By their names, or by their first lines. What was built or downloaded is not ours.
shell_scripts() {
  (cd "$root" && find . \( -name .git -o -name .cache -o -name dist -o -name target \) -prune -o -type f -exec awk '
    FNR == 1 && (FILENAME ~ /\.sh$/ || /^#!.*[\/ ](ba|da)?sh( |$)/) { print FILENAME }
    { nextfile }' {} +)
}
