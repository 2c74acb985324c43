# shellcheck shell=bash disable=SC2154,SC2034 # build.sh shares its variables with these files
# Measures what a decision costs: the loops of benches/ natively, and compiled like the module in Node's V8.

bench_all() {
  local work native
  work=$(scratch_dir bench)
  ensure_node
  native=$target_dir/release/holdfast-bench
  (cd "$root" && cargo build --release -q -p holdfast-bench)
  wasm_cargo build -q --profile wasm -p holdfast-bench --lib
  finish_module "$wasm_target_dir/$wasm_target/wasm/holdfast_bench.wasm" "$work/bench.wasm"
  say "measuring natively and in V8 (about half a minute)"
  "$native" >"$work/native.json"
  mkdir -p "$dist"
  node "$root/benches/bench.mjs" "$work/bench.wasm" "$work/native.json" "$dist/bench.json"
}
