# shellcheck shell=bash disable=SC2154,SC2034 # build.sh shares its variables with these files
# Makes what is released, in dist/release/. Equal commits give equal bytes where compiler and binaryen are equal: files are of the
# commit's time and of nobody, in the order of their names, and sources have names that every machine has.

readonly release=$dist/release

release_version= # of Cargo.toml, once read
release_epoch=   # seconds since 1970 of the commit, once read

# All of it is made in a folder of its own, which takes the place of the one before when it is complete.
make_release() {
  local work made name
  read_release
  build_module
  have wasm-opt || die "a release needs binaryen: apt-get install binaryen"
  build_program
  (cd "$root" && cargo build -q --locked -p holdfast-image -p holdfast-sbom)
  work=$(scratch_dir release)
  made=$work/release
  name=holdfast-$release_version
  (
    umask 022
    mkdir -p "$made"
    cp -- "$module" "$made/$name.wasm"
    install -m 755 -- "$program" "$made/$name-linux-x86_64"
    release_schema "$made/$name.schema.json"
    "$target_dir/debug/holdfast-image" "$module" "$made/$name-image" "$made/$name-image.tar" >"$work/digest"
    release_bills "$work" "$made"
    pack_chart "$work" "$made/$name-chart.tgz"
    pack_archive "$work" "$made"
    write_sums "$made"
  )
  rm -rf -- "$release"
  mkdir -p "$dist"
  mv -- "$made" "$release"
  cp -- "$release/$name.schema.json" "$dist/holdfast.schema.json"
  say "made dist/release/: $name, image $(cat "$work/digest")"
}

# A release has one version, wherever it stands.
read_release() {
  local chart=$root/envoy/helm/holdfast/Chart.yaml
  release_version=$(sed -n '/^\[workspace\.package\]/,/^\[[^w]/s/^version = "\(.*\)"$/\1/p' "$root/Cargo.toml")
  [[ -n $release_version ]] || die "Cargo.toml has no version below [workspace.package]"
  grep -qx "version: $release_version" "$chart" ||
    die "envoy/helm/holdfast/Chart.yaml: version must be $release_version, as in Cargo.toml"
  grep -qx "appVersion: \"$release_version\"" "$chart" ||
    die "envoy/helm/holdfast/Chart.yaml: appVersion must be \"$release_version\", as in Cargo.toml"
  grep -q "^## \[$release_version\]" "$root/CHANGELOG.md" ||
    die "CHANGELOG.md must have a section ## [$release_version], as in Cargo.toml"
  if in_git; then
    release_epoch=${SOURCE_DATE_EPOCH:-$(git -C "$root" log -1 --format=%ct)}
    [[ -z $(git -C "$root" status --porcelain) ]] || say "release: there are changes that are not committed, and they are in it"
  else
    release_epoch=${SOURCE_DATE_EPOCH:?"without git the time of the commit must be given: SOURCE_DATE_EPOCH=SECONDS"}
  fi
}

in_git() {
  have git && [[ $(git -C "$root" rev-parse --show-toplevel 2>/dev/null) == "$(realpath -- "$root")" ]]
}

# Files below PATH..., each ended by a zero byte. What git ignores is not ours.
our_files() { # PATH...
  if in_git; then
    (cd "$root" && git ls-files -z --cached --others --exclude-standard -- "$@" | while IFS= read -r -d '' file; do
      [[ ! -e $file ]] || printf '%s\0' "$file"
    done)
  else
    (cd "$root" && find "$@" \( -name .cache -o -name target -o -name dist \) -prune -o -type f -print0)
  fi
}

copy_files() { # TO PATH...
  mkdir -p "$1"
  our_files "${@:2}" | (cd "$root" && xargs -0 cp --parents -t "$1" --)
}

# The program prints it, by the tables that it reads documents with.
release_schema() { # OUT
  "$program" check --schema >"$1" || die "the program does not print the schema: holdfast check --schema"
}

pack() { # FOLDER NAME OUT
  tar --create --format=ustar --sort=name --mtime="@$release_epoch" --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX \
    --directory "$1" -- "$2" | gzip -9 -n >"$3"
}

# As `helm package` packs it, but for times and owners.
pack_chart() { # WORK OUT
  copy_files "$1/chart" envoy/helm/holdfast
  pack "$1/chart/envoy/helm" holdfast "$2"
}

# Whatever the README leads to, with the module and the program.
pack_archive() { # WORK RELEASE
  local name=holdfast-$release_version folder=holdfast-$release_version-linux-x86_64 inside
  inside=$1/archive/$folder
  copy_files "$inside" README.md LICENSE CHANGELOG.md CONTRIBUTING.md SECURITY.md docs envoy
  cp -- "$2/$folder" "$inside/holdfast"
  cp -- "$2/$folder.cdx.json" "$inside/holdfast.cdx.json"
  cp -- "$2/$name.wasm" "$inside/holdfast.wasm"
  cp -- "$2/$name.wasm.cdx.json" "$inside/holdfast.wasm.cdx.json"
  cp -- "$2/$name.schema.json" "$inside/holdfast.schema.json"
  cp -- "$2/$name-third-party.txt" "$inside/THIRD-PARTY.txt"
  pack "$1/archive" "$folder" "$2/$folder.tar.gz"
}

write_sums() { # RELEASE
  (
    cd "$1" || exit
    find . -type f -printf '%P\0' | LC_ALL=C sort -z | xargs -0 sha256sum -- >"$scratch/SHA256SUMS"
    mv -- "$scratch/SHA256SUMS" .
  )
}

# The bills of materials of module and program, and the licences of both.
release_bills() { # WORK RELEASE
  local name=holdfast-$release_version compiler=rustc module_build program_build module_linked program_linked tools
  [[ $wasm_toolchain != debian ]] || compiler=/usr/bin/rustc
  wasm_cargo build -q --profile wasm -p holdfast --message-format=json >"$1/module.messages"
  program_cargo build -q --message-format=json >"$1/program.messages"
  packages_of "$wasm_target" >"$1/module.packages"
  packages_of "$program_target" >"$1/program.packages"
  module_build=(--build holdfast "$wasm_target" "$1/module.messages" "$1/module.packages")
  program_build=(--build "$program_package" "$program_target" "$1/program.messages" "$1/program.packages")
  mapfile -t module_linked < <(linked_options < <(standard_library "$compiler"))
  mapfile -t program_linked < <(linked_options < <(standard_library rustc && program_libraries))
  tools=(--tool rustc "$(rustc_field "$compiler" release)"
    --tool wasm-opt "$(wasm-opt --version | sed 's/^wasm-opt version \([0-9]*\).*/\1/')")
  sbom bom --artefact "$2/$name.wasm" --name holdfast.wasm --type library --lock "$root/Cargo.lock" \
    "${module_build[@]}" "${module_linked[@]}" "${tools[@]}" >"$2/$name.wasm.cdx.json"
  tools=(--tool rustc "$(rustc_field rustc release)")
  sbom bom --artefact "$2/$name-linux-x86_64" --name holdfast --type application --lock "$root/Cargo.lock" \
    "${program_build[@]}" "${program_linked[@]}" "${tools[@]}" >"$2/$name-linux-x86_64.cdx.json"
  sbom notices "${module_build[@]}" "${program_build[@]}" "${module_linked[@]}" "${program_linked[@]}" >"$2/$name-third-party.txt"
}

sbom() { # ARG...
  "$target_dir/debug/holdfast-sbom" "$@" || die "there is no list of what is in the release"
}

packages_of() { # TRIPLE
  (cd "$root" && cargo metadata --locked --format-version 1 --filter-platform "$1")
}

# Name, version, URL, licence and copyright of what rustc links into everything, each on a line of its own. Its tables of Unicode
# have a licence of their own.
standard_library() { # RUSTC
  local version commit url
  version=$(rustc_field "$1" release)
  commit=$(rustc_field "$1" commit-hash)
  url=pkg:generic/rust-std@$version
  [[ ! $commit =~ ^[0-9a-f]{40}$ ]] || url=pkg:github/rust-lang/rust@$commit
  printf '%s\n' rust-std "$version" "$url" '(MIT OR Apache-2.0) AND Unicode-3.0' \
    "Copyright the Rust Project's contributors; 1991-2024 Unicode, Inc."
}

rustc_field() { # RUSTC FIELD
  "$1" -vV | sed -n "s/^$2: //p"
}

# Five lines are one use of --linked.
linked_options() {
  local field count=0
  while IFS= read -r field; do
    ((count++ % 5)) || printf '%s\n' --linked
    printf '%s\n' "$field"
  done
}

# A second build of the same files must be the first, byte for byte, wherever it is made: in another folder, with another cargo
# home and target folder, another umask, time zone and language, and with flags of somebody's own.
verify_release() {
  local there
  make_release
  there=$(mktemp -d "${TMPDIR:-/tmp}/holdfast elsewhere.XXXXXX")
  trap 'rm -rf -- "$scratch" '"$(printf '%q' "$there")" EXIT
  copy_files "$there/source" .
  cargo_home_at "$there/home"
  share_cache "$there/source/.cache"
  say "release: making it again in $there"
  (
    umask 077
    env -u LC_ALL LANG=tr_TR.UTF-8 TZ=Pacific/Kiritimati CARGO_HOME="$there/home" CARGO_TARGET_DIR="$there/built" \
      CARGO_INCREMENTAL=1 RUSTFLAGS=-Ctarget-cpu=native SOURCE_DATE_EPOCH="$release_epoch" "$there/source/build.sh" dist
  )
  diff -rq "$release" "$there/source/dist/release" >&2 || die "two builds of the release differ"
  rm -rf -- "$there"
  say "release: two builds are equal, byte for byte: $(wc -l <"$release/SHA256SUMS") files"
}

# Crates are unpacked there anew, from the files that were downloaded.
cargo_home_at() { # FOLDER
  local home=${CARGO_HOME:-$HOME/.cargo} part
  mkdir -p "$1/registry"
  for part in registry/cache registry/index config.toml config; do
    [[ ! -e $home/$part ]] || ln -s -- "$(realpath -- "$home/$part")" "$1/$part"
  done
}

# A standard library that was built for Debian's compiler is built once.
share_cache() { # FOLDER
  local sysroot
  mkdir -p "$1"
  for sysroot in "$cache"/sysroot-*; do
    [[ ! -d $sysroot ]] || ln -s -- "$sysroot" "$1/"
  done
}
