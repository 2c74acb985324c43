# shellcheck shell=bash disable=SC2154,SC2034 # build.sh shares its variables with these files
# What every step of build.sh needs: messages, quiet commands, Debian packages, times.

# Messages go to stderr: the output of a target is its result.
say() {
  printf '%s\n' "$*" >&2
}

die() {
  say "build.sh: $*"
  exit 1
}

have() {
  command -v "$1" >/dev/null
}

# A noisy step stays quiet unless it fails. (Called in a condition, where `set -e` is off: one command only.)
quietly() { # LOG COMMAND...
  local log=$cache/$1.log
  shift
  if ! "$@" >"$log" 2>&1 </dev/null; then
    cat "$log" >&2
    return 1
  fi
}

# Unfinished work of one run, on the file system of what it becomes, gone at the end however that comes.
readonly scratch=$cache/run.$$
trap 'rm -rf -- "$scratch"' EXIT
scratch_dir() { # NAME
  mkdir -p "$scratch/$1"
  printf '%s\n' "$scratch/$1"
}

# Whether a program was built from these sources. `seal` notes that it was.
is_sealed() { # PROGRAM SOURCES
  [[ -x $1 && $2 == "$(cat -- "$1.seal" 2>/dev/null)" ]]
}

seal() { # PROGRAM SOURCES
  printf '%s\n' "$2" >"$1.seal"
}

# The program that the variable of this name names: looked up on the path; a relative path is the caller's.
own_program() { # VARIABLE
  local found
  cd "$caller_dir" || return
  found=$(type -P -- "${!1}") || die "$1=${!1} is not a program"
  realpath -s -- "$found"
}

# Only root can install packages; everyone else is told the command by the caller.
can_apt() {
  [[ $EUID -eq 0 ]] && have apt-get
}

# A new machine's package lists are empty or old, so they are read again, once a run.
apt_lists_read=
read_apt_lists() {
  can_apt || return 1
  if [[ -z $apt_lists_read ]]; then
    apt_lists_read=yes
    quietly apt-update apt-get update || say "apt-get update failed; going on with the package lists that are there"
  fi
}

apt_install() { # PACKAGE...
  read_apt_lists || return 1
  quietly apt-install env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
}

# `test` ends with how long each step took.
declare -A took=()
timed() { # NAME COMMAND...
  local name=$1 start=$SECONDS
  shift
  "$@"
  took[$name]=$((SECONDS - start))
}

# Sums the closing lines of the test binaries in a log, and of Node's test runner.
passed_in() { # LOG
  awk '/^test result: ok\./ { n += $4 } /^# pass / { n += $3 } END { print n + 0 }' "$1"
}
