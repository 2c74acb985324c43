# shellcheck shell=bash disable=SC2154,SC2034 # build.sh shares its variables with these files
# Finds a Rust that can build for wasm32 and runs it. Only the commands below see its environment:
# native builds use the ordinary cargo.
#
# HOLDFAST_TOOLCHAIN=rustup|debian forces one; otherwise the first that works is taken.

readonly wasm_target=wasm32-unknown-unknown
readonly debian_packages=(rustc-web cargo-web rust-web-src)
wasm_toolchain=   # rustup or debian, once chosen
wasm_target_dir=  # where the chosen one builds
debian_linker=    # wasm-ld-NN of the compiler's own LLVM
debian_sysroot=   # the standard library that was built for it

# Decides once a run, and says what it took.
choose_toolchain() {
  [[ -z $wasm_toolchain ]] || return 0
  case ${HOLDFAST_TOOLCHAIN:-any} in
    rustup) rustup_ready || add_rustup_target || no_toolchain ;;
    debian) debian_ready || install_debian || no_toolchain ;;
    # A library built earlier for Debian's compiler comes before a download that may hang.
    any) rustup_ready || debian_built || add_rustup_target || debian_ready || install_debian || no_toolchain ;;
    *) die "HOLDFAST_TOOLCHAIN is rustup or debian, not '$HOLDFAST_TOOLCHAIN'" ;;
  esac
  if [[ $wasm_toolchain == debian ]]; then
    ensure_sysroot
    say "toolchain: Debian's $(/usr/bin/rustc --version), standard library in ${debian_sysroot#"$root/"}"
  else
    say "toolchain: $(rustc --version) with its $wasm_target target"
  fi
}

# The compiler on the path serves if it has the target's standard library.
rustup_ready() {
  local libraries
  have cargo && libraries=$(rustc --print target-libdir --target "$wasm_target" 2>/dev/null) || return 1
  compgen -G "$libraries/libcore-*.rlib" >/dev/null || return 1
  wasm_toolchain=rustup
  wasm_target_dir=$target_dir
}

# Where the download server cannot be reached this hangs or fails: it gets two minutes.
add_rustup_target() {
  have rustup || return 1
  say "toolchain: adding $wasm_target with rustup"
  timeout 120 rustup target add "$wasm_target" >"$cache/rustup.log" 2>&1 </dev/null && rustup_ready && return
  say "toolchain: rustup could not add it: $(tail -n 1 "$cache/rustup.log")"
  return 1
}

# Debian ships no wasm32 library for its newest compiler, but the library's sources and a linker.
debian_ready() {
  local version llvm
  [[ -x /usr/bin/rustc && -x /usr/bin/cargo ]] || return 1
  [[ -d $(/usr/bin/rustc --print sysroot)/lib/rustlib/src/rust/library ]] || return 1
  llvm=$(debian_llvm) && have "wasm-ld-$llvm" || return 1
  version=$(/usr/bin/rustc -vV | sed -n 's/^release: //p')
  debian_linker=wasm-ld-$llvm
  debian_sysroot=$cache/sysroot-$version
  wasm_toolchain=debian
  wasm_target_dir=$target_dir/debian # both compilers write the same file names
}

# The linker must read the bitcode that the compiler's LLVM writes.
debian_llvm() {
  /usr/bin/rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p'
}

debian_built() {
  compgen -G "$cache/sysroot-*" >/dev/null && debian_ready && [[ -d $debian_sysroot ]] && return
  wasm_toolchain=
  return 1
}

install_debian() {
  can_apt || return 1
  say "toolchain: installing Debian's compiler with its sources"
  apt_install "${debian_packages[@]}" && apt_install "lld-$(debian_llvm)" && debian_ready
}

no_toolchain() {
  say "There is no Rust here that can build for $wasm_target. Either of these provides one:"
  say "  rustup target add $wasm_target"
  say "  apt-get update && apt-get install -y --no-install-recommends ${debian_packages[*]} lld-NN   (as root; NN: LLVM major of '/usr/bin/rustc -vV')"
  exit 1
}

# Built once per compiler version; then Debian's compiler needs no unstable flag.
ensure_sysroot() {
  local work built
  [[ ! -d $debian_sysroot ]] || return 0
  say "toolchain: building the standard library for $wasm_target (once, about a minute)"
  work=$(scratch_dir sysroot)
  mkdir "$work/src"
  touch "$work/src/lib.rs"
  # `test` is what `cargo test` links; the empty [workspace] keeps cargo from joining it to ours.
  printf '[package]\nname = "sysroot-carrier"\nedition = "2021"\n[workspace]\n' >"$work/Cargo.toml"
  # Bitcode in the library is what lets the module's link-time optimisation reach into it.
  quietly sysroot env CARGO_TARGET_DIR="$work/target" RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 \
    CARGO_ENCODED_RUSTFLAGS=-Cembed-bitcode=yes \
    /usr/bin/cargo build --release --target "$wasm_target" -Zbuild-std=std,panic_abort,test \
    --manifest-path "$work/Cargo.toml" || die "the standard library could not be built"
  built=$work/sysroot/lib/rustlib/$wasm_target/lib
  mkdir -p "$built"
  cp "$work/target/$wasm_target/release/deps/"*.rlib "$built"
  rm "$built"/libsysroot_carrier-*.rlib
  mv "$work/sysroot" "$debian_sysroot"
}

# Runs a command in the chosen compiler's environment; flags meant for native code stay outside. A compiler that works by increments
# makes other bytes, whatever the profile says of code units.
with_wasm_toolchain() { # COMMAND...
  choose_toolchain
  name_sources
  if [[ $wasm_toolchain == debian ]]; then
    env CARGO_INCREMENTAL=0 CARGO=/usr/bin/cargo RUSTC=/usr/bin/rustc RUSTDOC=/usr/bin/rustdoc CARGO_TARGET_DIR="$wasm_target_dir" \
      CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER="$debian_linker" \
      CARGO_ENCODED_RUSTFLAGS="--sysroot"$'\x1f'"$debian_sysroot"$'\x1f'"$source_names" "$@"
  else
    env CARGO_INCREMENTAL=0 CARGO_ENCODED_RUSTFLAGS="$source_names" "$@"
  fi
}

# A panic says in which file, so the files' names are in what is built. They are given names that every machine has: two
# builds of a commit are equal, and nothing tells whose folders they stood in. (Cargo's own `trim-paths` is not stable.)
source_names= # rustc's flags for it, as CARGO_ENCODED_RUSTFLAGS has them
name_sources() {
  local sources
  [[ -z $source_names ]] || return 0
  (cd "$root" && quietly cargo-fetch cargo fetch --target "$wasm_target") || die "the crates of Cargo.lock could not be had"
  # The last one that fits counts. Each registry has a folder of its own for sources, named by where it is.
  source_names=--remap-path-prefix=$root=/holdfast$'\x1f'--remap-path-prefix=$target_dir=/target
  for sources in "$(realpath -m -- "${CARGO_HOME:-$HOME/.cargo}")"/registry/src/*/; do
    source_names+=$'\x1f'--remap-path-prefix=${sources%/}=/crates
  done
}

# cargo for wasm32, from the project's directory.
wasm_cargo() { # SUBCOMMAND ARG...
  local cargo=cargo
  choose_toolchain
  [[ $wasm_toolchain != debian ]] || cargo=/usr/bin/cargo
  (cd "$root" && with_wasm_toolchain "$cargo" "$1" --target "$wasm_target" "${@:2}")
}

# rustdoc is told of the library apart from rustc.
wasm_doc() { # ARG...
  local flags="-Dwarnings"
  choose_toolchain
  [[ $wasm_toolchain != debian ]] || flags+=$'\x1f'"--sysroot"$'\x1f'$debian_sysroot
  CARGO_ENCODED_RUSTDOCFLAGS=$flags wasm_cargo doc "$@"
}

# clippy must be the chosen compiler's own: it reads that compiler's libraries.
wasm_clippy() { # ARG...
  choose_toolchain
  if [[ $wasm_toolchain == debian ]]; then
    [[ -x /usr/bin/cargo-clippy ]] || apt_install rust-web-clippy || die "Debian's clippy is missing: apt-get install rust-web-clippy"
    (cd "$root" && with_wasm_toolchain /usr/bin/cargo-clippy clippy --target "$wasm_target" "$@")
  else
    wasm_cargo clippy "$@"
  fi
}
