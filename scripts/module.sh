# shellcheck shell=bash disable=SC2154,SC2034 # build.sh shares its variables with these files
# Makes dist/holdfast.wasm: links it, cuts the exports that nobody needs, makes it smaller.

readonly exports_list=$root/scripts/exports.txt
# The WebAssembly that rustc emits today; binaryen refuses what it is not told of.
readonly wasm_features=(--enable-bulk-memory --enable-nontrapping-float-to-int --enable-sign-ext
  --enable-mutable-globals --enable-reference-types --enable-multivalue)

build_module() {
  local linked work seal=$cache/module.seal
  check_exports_list
  wasm_cargo build --profile wasm -p holdfast
  linked=$wasm_target_dir/$wasm_target/wasm/holdfast.wasm
  if [[ $(module_seal "$linked") != "$(cat "$seal" 2>/dev/null)" ]]; then
    work=$(scratch_dir module)
    finish_module "$linked" "$work"
    install_if_changed "$work/holdfast.wasm" "$module"
    module_seal "$linked" >"$seal"
  fi
  say "built ${module#"$root/"}: $(size "$module") bytes ($(size "$linked") as linked)"
}

# Names one outcome with everything it came from: while it holds, the seconds of wasm-opt are saved.
module_seal() { # LINKED
  sha256sum -- "$module" "$1" "$exports_list" "$root/scripts/module.sh" 2>/dev/null || true
  wasm-opt --version 2>/dev/null || true
}

# A callback that is written but not exported would silently never run.
check_exports_list() {
  local name missing=()
  while read -r name; do
    grep -qw -- "$name" "$exports_list" || missing+=("$name")
  done < <(implemented_callbacks)
  ((${#missing[@]} == 0)) || die "filter/src/abi.rs has ${missing[*]}: add the export to scripts/exports.txt"
}

# The functions that the host calls.
implemented_callbacks() {
  grep -oE 'pub extern "C" fn proxy_\w+' "$root/filter/src/abi.rs" | awk '{ print $NF }' | sort -u
}

# Works without binaryen too: then every callback costs its call, and the module is larger.
finish_module() { # LINKED WORK
  if have wasm-metadce && have wasm-opt || apt_install binaryen; then
    exports_graph >"$2/exports.json"
    quietly metadce wasm-metadce "${wasm_features[@]}" "$1" -f "$2/exports.json" -o "$2/cut.wasm" ||
      die "wasm-metadce failed on ${1#"$root/"}"
    quietly wasm-opt wasm-opt "${wasm_features[@]}" -O3 "$2/cut.wasm" -o "$2/holdfast.wasm" ||
      die "wasm-opt failed on ${1#"$root/"}"
  else
    say "binaryen (wasm-metadce, wasm-opt) is not installed: the module keeps all exports and its size"
    cp -- "$1" "$2/holdfast.wasm"
  fi
}

# wasm-metadce keeps what its graph's roots reach: here one root for each export to keep.
exports_graph() {
  sed -E 's/[[:space:]]*#.*//; /^$/d' "$exports_list" |
    awk 'BEGIN { printf "[" } { printf "%s{\"name\":\"%s\",\"export\":\"%s\",\"root\":true}", (NR > 1 ? ",\n" : ""), $1, $1 } END { print "]" }'
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
