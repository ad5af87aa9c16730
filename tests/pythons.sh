#!/usr/bin/env bash
# Prints the path of a Python of the version named, in a virtual environment with all that the tests need:
#
#   tests/pythons.sh 3.14   3.13 and 3.14: Debian 13's and unstable's
#
# The Python is fetched as tests/roots.sh fetches HAProxys, into the cache, and nothing of it is installed; the
# environment is build/python-VERSION. Safe to run again, and several at once.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly cache=${XDG_CACHE_HOME:-$HOME/.cache}/hapsync/pythons
readonly version=${1:-}
readonly venv=build/python-$version

readonly script=pythons
# shellcheck source=tests/shell.sh
source tests/shell.sh
# shellcheck source=tests/debian.sh
source tests/debian.sh
# shellcheck source=tests/venv.sh
source tests/venv.sh

# Ends the (sub)shell it runs in when it fails, and then leaves what is in the cache as it was.
make_root() {
  local suite=$1 work said
  work=$(mktemp -d "$cache/making.XXXXXX") || fail "no folder can be made in $cache"
  # shellcheck disable=SC2064  # the folder is known now and gone from scope later
  trap "rm -rf -- '$work'" EXIT
  # Beside the program itself, from where Python finds its library.
  need_mmdebstrap
  unpack "$suite" "$work/root" "python$version,python$version-venv"
  write_wrapper "$work/root" usr/bin/python "usr/bin/python$version"
  said=$("$work/root/usr/bin/python" --version) || fail "the Python $version that was fetched does not run"
  [[ $said == "Python $version."* ]] || fail "what was fetched for Python $version is $said"
  replace "$work/root" "$cache/$version"
}

# Debian's venv takes pip from a folder of the system, so here it comes from the root's.
make_venv() {
  local wheels=("$cache/$version"/usr/share/python-wheels/pip-*.whl)
  say "virtual environment: making $venv with $("$cache/$version/usr/bin/python" --version)"
  "$cache/$version/usr/bin/python" -m venv --clear --without-pip "$venv"
  "$venv/bin/python" "${wheels[0]}/pip" install --quiet --no-index --no-deps "${wheels[0]}"
  install_packages
}

main() {
  local suite
  case $version in
    3.13) suite=trixie ;;
    3.14) suite=sid ;;
    *) fail "no such version: '$version'" "there are 3.13 3.14" ;;
  esac
  need_amd64 "the Pythons to test with"
  mkdir -p "$cache" build
  exec 9<"$cache"
  flock 9
  if [[ ! -d $cache/$version ]]; then
    say "fetching Python $version"
    (make_root "$suite") || fail "Python $version could not be fetched"
  elif is_old "$cache/$version"; then
    say "fetching Python $version anew: it was fetched $days days ago or before"
    (make_root "$suite") || say "going on with the Python $version there is"
  fi
  is_venv_up_to_date || make_venv >&2
  printf '%s\n' "$PWD/$venv/bin/python"
}

main "$@"
