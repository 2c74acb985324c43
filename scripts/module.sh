# shellcheck shell=bash disable=SC2154,SC2034 # build.sh shares its variables with these files
# Makes dist/holdfast.wasm: links it, takes away the exports that it has no use for, and makes it smaller.

# The WebAssembly that rustc emits today; binaryen refuses what it is not told of.
readonly wasm_features=(--enable-bulk-memory --enable-nontrapping-float-to-int --enable-sign-ext
  --enable-mutable-globals --enable-reference-types --enable-multivalue)

build_module() {
  local linked work seal=$cache/module.seal
  wasm_cargo build --profile wasm -p holdfast
  linked=$wasm_target_dir/$wasm_target/wasm/holdfast.wasm
  if [[ $(module_seal "$linked") != "$(cat "$seal" 2>/dev/null)" ]]; then
    work=$(scratch_dir module)
    finish_module "$linked" "$work/holdfast.wasm" "$root/filter/exports.json"
    install_if_changed "$work/holdfast.wasm" "$module"
    module_seal "$linked" >"$seal"
  fi
  say "built ${module#"$root/"}: $(size "$module") bytes ($(size "$linked") as linked)"
}

# Names one outcome with everything it came from: while it holds, the seconds of wasm-opt are saved.
module_seal() { # LINKED
  sha256sum -- "$module" "$1" "$root/scripts/module.sh" "$root/filter/exports.json" 2>/dev/null || true
  wasm-opt --version 2>/dev/null || true
}

# The SDK exports every callback of the ABI, and Envoy calls each that is exported, for every request and try. EXPORTS lists
# those that stay. Works without binaryen too: then the module is larger and slower.
finish_module() { # LINKED OUT [EXPORTS]
  if ! have wasm-opt && ! apt_install binaryen; then
    say "binaryen (wasm-opt, wasm-metadce) is not installed: ${1##*/} keeps its size and every export"
    cp -- "$1" "$2"
    return
  fi
  local input=$1
  if [[ -n ${3-} ]]; then
    input=$2.trimmed
    quietly wasm-metadce wasm-metadce "${wasm_features[@]}" --graph-file "$3" "$1" -o "$input" ||
      die "wasm-metadce failed on ${1#"$root/"}"
  fi
  quietly wasm-opt wasm-opt "${wasm_features[@]}" -Oz "$input" -o "$2" || die "wasm-opt failed on ${1#"$root/"}"
}

# What did not change keeps its time stamp, and what depends on it stays fresh.
install_if_changed() { # NEW PATH
  cmp -s -- "$1" "$2" && return
  mkdir -p "$(dirname -- "$2")"
  mv -- "$1" "$2"
}

size() {
  wc -c <"$1" | tr -d ' '
}
