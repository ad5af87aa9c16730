#!/usr/bin/env bash
# Makes this machine ready to run the tests: a real HAProxy, a real Consul, and
# .venv with everything pinned in tests/requirements.txt. Safe to run again.
#
#   HAPROXY=/path, CONSUL=/path   use these instead of looking for or installing one
#   PYTHON=/path                  the Python (3.11 or newer) that makes .venv
#
# With the argument `wrk`, that load tool as well, which nothing needs but the lab's traffic of that name.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly root=$PWD
readonly venv=$root/.venv
readonly stamp=$venv/hapsync-bootstrap.stamp
readonly cache=${XDG_CACHE_HOME:-$HOME/.cache}/hapsync

readonly consul_version='1.8.7+dfsg1-2+b3'
readonly consul_sha256=e4e888bba104daba1d9161f49bfc52649a7e4efd45b1a7ead5bc54f2cb9c89d9
readonly consul_cached=$cache/consul-$consul_version/usr/bin/consul

# Debian keeps haproxy in sbin, which is not on every user's PATH.
PATH=$PATH:/usr/local/sbin:/usr/sbin

readonly script=bootstrap
# shellcheck source=tests/shell.sh
source tests/shell.sh

# Prints the absolute path of the program that variable $1 (value $2) names; fails when it is none.
named_program() {
  local path
  path=$(command -v -- "$2") || fail "\$$1 is '$2', which is no program that can be run"
  realpath -s -- "$path"
}

find_haproxy() {
  if [[ -n ${HAPROXY:-} ]]; then
    haproxy=$(named_program HAPROXY "$HAPROXY")
    return
  fi
  if ! command -v haproxy >/dev/null; then
    apt_install haproxy "install HAProxy 2.4 or newer yourself, or set \$HAPROXY to its path"
  fi
  haproxy=$(command -v haproxy) || fail "haproxy is installed but not on PATH" "set \$HAPROXY to its path"
}

# Debian 11's package: Debian 12 has none, and the mirrors still hold this one.
download_consul() {
  local file="consul_${consul_version}_amd64.deb" repository work
  mkdir -p "$cache" || return 1
  work=$(mktemp -d "$cache/download.XXXXXX") || return 1
  # shellcheck disable=SC2064  # the folder is known now and gone from scope later
  trap "rm -rf -- '$work'" EXIT
  while read -r repository; do
    /usr/lib/apt/apt-helper -o Acquire::Retries=1 -o Acquire::http::Timeout=60 -o APT::Sandbox::User=root \
      download-file "${repository%/}/pool/main/c/consul/$file" "$work/$file" "SHA256:$consul_sha256" \
      </dev/null >/dev/null 2>&1 && break
  done < <(apt_repositories)
  [[ -f $work/$file ]] || return 1
  sha256sum --check --status <<<"$consul_sha256  $work/$file" ||
    fail "the downloaded $file is not the file it should be (its SHA-256 differs)"
  # Renamed whole, so that a run cut short never leaves half a Consul behind.
  dpkg -x "$work/$file" "$work/consul" &&
    rm -rf -- "${consul_cached%/usr/bin/consul}" &&
    mv -- "$work/consul" "${consul_cached%/usr/bin/consul}"
}

find_consul() {
  if [[ -n ${CONSUL:-} ]]; then
    consul=$(named_program CONSUL "$CONSUL")
    return
  fi
  if consul=$(command -v consul); then return; fi
  consul=$consul_cached
  if [[ -x $consul ]]; then return; fi

  local advice="install Consul from HashiCorp's packages, put it on PATH or set \$CONSUL to its path"
  command -v apt-get >/dev/null || fail "no consul found, and this machine has no apt-get" "$advice"
  [[ -n $(apt_repositories) ]] || apt_update
  if apt_has consul; then
    apt_install consul "$advice"
    consul=$(command -v consul) || fail "consul is installed but not on PATH" "set \$CONSUL to its path"
    return
  fi
  [[ $(dpkg --print-architecture) == amd64 ]] ||
    fail "no consul found, and the pinned Debian package is for amd64 only" "$advice"
  say "fetching Debian's consul $consul_version from this machine's own mirror"
  download_consul || fail "no mirror in this machine's apt sources holds consul $consul_version" "$advice"
}

is_new_enough() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
  local candidate candidates=(python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3)
  if [[ -n ${PYTHON:-} ]]; then candidates=("$PYTHON"); fi
  for candidate in "${candidates[@]}"; do
    if is_new_enough "$candidate"; then
      python=$candidate
      return
    fi
  done
  fail "needs Python 3.11 or newer; '${candidates[0]}' is $("${candidates[0]}" --version 2>&1 || true)" \
    "install one (Debian 12's python3 is 3.11), or set \$PYTHON to its path"
}

# What .venv must have been made from to be used as it is.
fingerprint() {
  [[ -x $venv/bin/python ]] || return 1
  "$venv/bin/python" --version || return 1
  printf '%s\n' "$root" # an editable install and its scripts hold this path
  sha256sum tests/requirements.txt pyproject.toml
}

make_venv() {
  local current
  if current=$(fingerprint 2>/dev/null) && [[ -f $stamp && $current == "$(<"$stamp")" ]]; then
    say "virtual environment: .venv is up to date"
    return
  fi
  [[ -f pyproject.toml ]] || fail "no pyproject.toml in $root"
  find_python
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    apt_install python3-venv "install what '$python -m venv' needs"
  fi
  # .venv is kept when it only lacks packages: made afresh when moved, or of another or a broken Python.
  if [[ ! -f $stamp || $(head -n 2 "$stamp") != "$(head -n 2 <<<"$current")" ]] ||
    ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    say "virtual environment: making .venv with $("$python" --version)"
    "$python" -m venv --clear "$venv"
  fi
  rm -f -- "$stamp"
  say "virtual environment: installing tests/requirements.txt"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r tests/requirements.txt
  say "virtual environment: installing hapsync itself, editable"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
  fingerprint >"$stamp"
}

main() {
  # Two runs at once would install over each other; the lock goes with the process.
  exec 9<"$root/tests/bootstrap.sh"
  flock 9

  find_haproxy
  say "HAProxy: $haproxy"
  find_consul
  say "Consul: $consul"
  if [[ ${1:-} == wrk ]] && ! command -v wrk >/dev/null; then
    apt_install wrk "install wrk 4.1 yourself"
  fi
  make_venv
  printf 'HAPROXY=%s\nCONSUL=%s\n' "$haproxy" "$consul" >"$venv/hapsync-tools.env"
}

main "$@"
