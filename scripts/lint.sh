# shellcheck shell=bash disable=SC2154,SC2034 # build.sh shares its variables with these files
# What lint checks beside format and clippy: links in the documentation.

readonly wasm_packages=(-p holdfast -p holdfast-bench-noop -p holdfast-bench-noop-lean)

# A link to an item that is gone is an error, in private documentation too.
lint_documentation() {
  RUSTDOCFLAGS="-D warnings" cargo doc -q --no-deps --document-private-items
  wasm_doc -q --no-deps --document-private-items "${wasm_packages[@]}"
}
