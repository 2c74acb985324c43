# shellcheck shell=bash disable=SC2154,SC2034 # build.sh shares its variables with these files
# Measures what Holdfast costs: a real Envoy per request, and a decision in the loops of benches/.

# The module in a real Envoy, beside filters that do nothing and its peers. ARG... goes to the program (`--help` lists them).
bench_envoy() { # ARG...
  local work name
  ensure_load
  build_module
  ensure_envoy
  work=$(scratch_dir bench)
  (cd "$root" && cargo build --release -q -p holdfast-bench-envoy)
  wasm_cargo build -q --profile wasm -p holdfast-bench-noop -p holdfast-bench-noop-lean
  for name in noop noop_lean; do
    finish_module "$wasm_target_dir/$wasm_target/wasm/holdfast_bench_$name.wasm" "$work/$name.wasm"
  done
  cd "$caller_dir" || return # a relative path in ARG is the caller's
  "$target_dir/release/holdfast-bench-envoy" --module "$module" --envoy "$envoy" \
    --noop "$work/noop.wasm" --lean-noop "$work/noop_lean.wasm" --out "$dist" "$@"
}

ensure_load() {
  have wrk && have h2load || apt_install wrk nghttp2-client ||
    die "the bench needs wrk and h2load for its load: apt-get install wrk nghttp2-client"
}

# The pure crate's loops, natively and compiled like the module in Node's V8.
bench_decisions() {
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
  node "$root/benches/bench.mjs" "$work/bench.wasm" "$work/native.json" "$dist/bench-decisions.json"
}
