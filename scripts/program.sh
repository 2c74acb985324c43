# shellcheck shell=bash disable=SC2154,SC2034 # build.sh shares its variables with these files
# Makes the program `holdfast` for those who have no Rust: one file that runs on any Linux on x86-64 and needs nothing there.
#
# It is linked with musl. That target has everything with the compiler, from the C library to the linker, so the program's bytes
# depend on the compiler and on nothing else of the machine, and every licence in it is permissive. Where rustup cannot bring the
# target, the machine's own glibc is linked in: that runs everywhere too, and its bytes are those of this glibc and this linker.
#
# HOLDFAST_LIBC=musl|glibc forces one; otherwise the first that can be had is taken.

readonly program_package=holdfast-cli
readonly program_name=holdfast
program_target=     # the triple, once chosen
program_flags=      # rustc's flags, as CARGO_ENCODED_RUSTFLAGS has them
program=            # the program, once built

choose_program_target() {
  [[ -z $program_target ]] || return 0
  [[ $(uname -sm) == 'Linux x86_64' ]] || die "the program is built on Linux on x86-64, and this is $(uname -sm)"
  case ${HOLDFAST_LIBC:-any} in
    musl) musl_ready || die "there is no standard library for musl: rustup target add x86_64-unknown-linux-musl" ;;
    glibc) glibc_ready || no_static_libc ;;
    any) musl_ready || glibc_ready || no_static_libc ;;
    *) die "HOLDFAST_LIBC is musl or glibc, not '$HOLDFAST_LIBC'" ;;
  esac
  say "program: for $program_target"
}

musl_ready() {
  has_library x86_64-unknown-linux-musl || add_musl_target || return 1
  program_target=x86_64-unknown-linux-musl
  program_flags=-Ctarget-feature=+crt-static$'\x1f'-Clinker=rust-lld$'\x1f'-Clinker-flavor=ld.lld
}

glibc_ready() {
  has_library x86_64-unknown-linux-gnu && [[ -f $(cc -print-file-name=libc.a) ]] || return 1
  program_target=x86_64-unknown-linux-gnu
  program_flags=-Ctarget-feature=+crt-static
}

no_static_libc() {
  die "the program is linked with its C library. Either of these provides one:
  rustup target add x86_64-unknown-linux-musl
  apt-get install libc6-dev"
}

# The compiler's standard library for a target.
has_library() { # TRIPLE
  compgen -G "$(rustc --print target-libdir --target "$1")/libcore-*.rlib" >/dev/null
}

# Where the download server cannot be reached this hangs or fails: it gets two minutes.
add_musl_target() {
  have rustup || return 1
  say "program: adding x86_64-unknown-linux-musl with rustup"
  quietly rustup-musl timeout 120 rustup target add x86_64-unknown-linux-musl && has_library x86_64-unknown-linux-musl
}

build_program() {
  program_cargo build -q
  program=$target_dir/$program_target/program/$program_name
  say "built the program: $(size "$program") bytes"
}

program_cargo() { # SUBCOMMAND ARG...
  choose_program_target
  name_sources
  (cd "$root" && CARGO_INCREMENTAL=0 CARGO_ENCODED_RUSTFLAGS=$program_flags$'\x1f'$source_names \
    cargo "$1" --locked --profile program --target "$program_target" -p "$program_package" --bin "$program_name" "${@:2}")
}

# What is linked in beside crates, as tools/sbom takes it: name, version, URL, licence and copyright, each on a line of its own.
program_libraries() {
  local version
  if [[ $program_target == *-musl ]]; then
    version=$(musl_version)
    [[ -n $version ]] || die "the library for $program_target does not say which version of musl it is"
    printf '%s\n' musl "$version" "pkg:generic/musl@$version" MIT 'Copyright 2005-2020 Rich Felker, et al.'
    version=$(rustc_field rustc 'LLVM version')
    printf '%s\n' libunwind "$version" "pkg:generic/libunwind@$version" 'Apache-2.0 WITH LLVM-exception' \
      "Copyright the LLVM Project's contributors"
  else
    version=$(getconf GNU_LIBC_VERSION | sed 's/^glibc //')
    printf '%s\n' glibc "$version" "pkg:generic/glibc@$version" LGPL-2.1-or-later 'Copyright Free Software Foundation, Inc.'
    version=$(cc -dumpfullversion)
    printf '%s\n' libgcc "$version" "pkg:generic/libgcc@$version" 'GPL-3.0-or-later WITH GCC-exception-3.1' \
      'Copyright Free Software Foundation, Inc.'
  fi
}

# It comes with the compiler's standard library and is told nowhere but there.
musl_version() {
  local found library
  library=$(rustc --print target-libdir --target "$program_target")/self-contained/libc.a
  mapfile -t found < <(grep -aoE '\b1\.[0-9]+\.[0-9]+\b' "$library")
  printf '%s\n' "${found[0]-}"
}
