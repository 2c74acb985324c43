# shellcheck shell=bash disable=SC2154,SC2034 # build.sh shares its variables with these files
# Measures what a decision costs: the loops of benches/ natively, and compiled like the module in Node's V8.

bench_all() {
  local work native
  work=$(scratch_dir bench)
  ensure_node
  native=$target_dir/release/holdfast-bench
  (cd "$root" && cargo build --release -q -p holdfast-bench)
  wasm_cargo build -q --profile wasm -p holdfast-bench --lib
  bench_module "$work/bench.wasm"
  say "measuring natively and in V8 (about half a minute)"
  "$native" >"$work/native.json"
  mkdir -p "$dist"
  node "$root/benches/bench.mjs" "$work/bench.wasm" "$work/native.json" "$dist/bench.json"
}

# Finished as the module is.
bench_module() { # OUT
  local linked=$wasm_target_dir/$wasm_target/wasm/holdfast_bench.wasm
  if have wasm-opt || apt_install binaryen; then
    quietly bench-wasm-opt wasm-opt "${wasm_features[@]}" -O3 "$linked" -o "$1" || die "wasm-opt failed on ${linked#"$root/"}"
  else
    say "binaryen (wasm-opt) is not installed: the module's own numbers are a little better than these"
    cp -- "$linked" "$1"
  fi
}
