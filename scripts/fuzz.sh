# shellcheck shell=bash disable=SC2154,SC2034 # build.sh shares its variables with these files
# Searches for bytes that the pure crate cannot take: every target in fuzz/ for a bounded time.
#
# The stable toolchain does it: libFuzzer's coverage is an LLVM pass that any compiler has (-Cpasses=sancov-module), only
# the sanitizers are nightly's. They look for memory errors, and the crate is safe Rust: panics, overflows, failed
# assertions, endless loops and unbounded memory are what can be found, and those need none.

readonly fuzz_tools=$cache/cargo-fuzz
readonly fuzz_work=$cache/fuzz # corpus and artifacts; a corpus goes on growing from run to run

fuzz_all() { # SECONDS
  local seconds=$1 target triple crashed=()
  [[ $seconds =~ ^[1-9][0-9]*$ ]] || die "fuzz takes a number of seconds for each target, not '$seconds'"
  ensure_cargo_fuzz
  triple=$(rustc -vV | sed -n 's/^host: //p')
  cargo_fuzz build || die "the fuzz targets could not be built"
  for target in $(fuzz_targets); do
    fuzz_one "$target" "$seconds" "$target_dir/fuzz/$triple/release/$target" || crashed+=("$target")
  done
  ((${#crashed[@]} == 0)) || die "found something in: ${crashed[*]}"
}

# libFuzzer itself is C++ and is compiled with the targets.
ensure_cxx() {
  have c++ || apt_install g++ || die "libFuzzer is built with a C++ compiler: install the package g++"
}

ensure_cargo_fuzz() {
  ensure_cxx
  [[ ! -x $fuzz_tools/bin/cargo-fuzz ]] || return 0
  say "fuzz: building cargo-fuzz (once, about a minute)"
  quietly cargo-fuzz env -u CARGO_TARGET_DIR -u RUSTFLAGS CARGO_PROFILE_RELEASE_OPT_LEVEL=0 \
    CARGO_RESOLVER_INCOMPATIBLE_RUST_VERSIONS=fallback cargo install cargo-fuzz --root "$fuzz_tools" ||
    die "cargo-fuzz could not be built"
}

fuzz_targets() {
  sed -n 's/^name = "\(.*\)"$/\1/p' "$root/fuzz/Cargo.toml" | grep -vx holdfast-fuzz
}

# In a subshell's directory: cargo fuzz looks for its package from there.
cargo_fuzz() { # SUBCOMMAND
  (cd "$root" && "$fuzz_tools/bin/cargo-fuzz" "$1" --sanitizer none --target-dir "$target_dir/fuzz")
}

# One target: 4,096 bytes at most, and no input may take 10 seconds or a gigabyte.
fuzz_one() { # TARGET SECONDS PROGRAM
  local name=$1 corpus=$fuzz_work/corpus/$1 artifacts=$fuzz_work/artifacts/$1 log=$fuzz_work/$1.log options=() found start=$SECONDS
  mkdir -p "$corpus" "$artifacts"
  fuzz_seeds "$name" "$corpus"
  [[ ! -f $root/fuzz/$name.dict ]] || options+=("-dict=$root/fuzz/$name.dict")
  touch "$fuzz_work/started"
  if "$3" "$corpus" -max_total_time="$2" -max_len=4096 -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 \
    -artifact_prefix="$artifacts/" "${options[@]}" >"$log" 2>&1 </dev/null; then
    say "fuzz: $name: $(fuzz_executions "$log") executions in $((SECONDS - start)) s, 0 crashes"
    return
  fi
  # What went wrong stands before a long trace; without a panic it is the summary (a time-out, too much memory).
  grep -E -A 3 -m 1 'panicked at|^SUMMARY' "$log" >&2 || tail -n 20 "$log" >&2
  found=$(find "$artifacts" -type f -newer "$fuzz_work/started" | head -n 1)
  say "fuzz: $name: $(fuzz_executions "$log") executions in $((SECONDS - start)) s, 1 crash: ${found:-no artifact; see $log}"
  say "fuzz: to run it again: $3 ${found:-ARTIFACT}"
  return 1
}

# What a document looks like: the checker's fixtures, what the shipped configuration holds, and a google.protobuf.Struct of
# {"policies": [{"name": "a", "breaker": {"window": 100}}]}.
fuzz_seeds() { # TARGET CORPUS
  local fixture
  [[ $1 == policy_document ]] || return 0
  for fixture in "$root"/tools/check/tests/fixtures/*.json; do
    cp -- "$fixture" "$2/seed-$(basename -- "$fixture")"
  done
  # The block under `value: |`, up to the first line that is indented less.
  awk '/^ *value: \|$/ { indent = index($0, "value"); next }
    indent && match($0, /[^ ]/) && RSTART <= indent { exit }
    indent' "$root/envoy/envoy.yaml" >"$2/seed-envoy.json"
  printf '\012\103\012\010policies\022725\0123\0521\012\013\012\004name\022\003\032\001a\012\042\012\007breaker\022\027\052\025\012\023\012\006window\022\011\021\000\000\000\000\000\000\131\100' >"$2/seed-struct"
  [[ -s $2/seed-envoy.json ]] || die "envoy/envoy.yaml has no policy document under 'value: |'"
}

fuzz_executions() { # LOG
  local count
  count=$(sed -n 's/^stat::number_of_executed_units: *//p' "$1")
  printf '%s' "${count:-an unknown number of}"
}
