# shellcheck shell=bash disable=SC2154,SC2034 # build.sh shares its variables with these files
# Makes dist/holdfast.wasm: links it, and makes it smaller.

# The WebAssembly that rustc emits today; binaryen refuses what it is not told of.
readonly wasm_features=(--enable-bulk-memory --enable-nontrapping-float-to-int --enable-sign-ext
  --enable-mutable-globals --enable-reference-types --enable-multivalue)

build_module() {
  local linked work seal=$cache/module.seal
  wasm_cargo build --profile wasm -p holdfast
  linked=$wasm_target_dir/$wasm_target/wasm/holdfast.wasm
  if [[ $(module_seal "$linked") != "$(cat "$seal" 2>/dev/null)" ]]; then
    work=$(scratch_dir module)
    finish_module "$linked" "$work/holdfast.wasm"
    install_if_changed "$work/holdfast.wasm" "$module"
    module_seal "$linked" >"$seal"
  fi
  say "built ${module#"$root/"}: $(size "$module") bytes ($(size "$linked") as linked)"
}

# Names one outcome with everything it came from: while it holds, the seconds of wasm-opt are saved.
module_seal() { # LINKED
  sha256sum -- "$module" "$1" "$root/scripts/module.sh" 2>/dev/null || true
  wasm-opt --version 2>/dev/null || true
}

# Works without binaryen too: then the module is larger.
finish_module() { # LINKED OUT
  if have wasm-opt || apt_install binaryen; then
    quietly wasm-opt wasm-opt "${wasm_features[@]}" -O3 "$1" -o "$2" || die "wasm-opt failed on ${1#"$root/"}"
  else
    say "binaryen (wasm-opt) is not installed: ${1##*/} keeps its size"
    cp -- "$1" "$2"
  fi
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
