#!/usr/bin/env bash
# Makes this machine ready to run the tests: a real HAProxy, a real Consul, and
# .venv with everything pinned in tests/requirements.txt. Safe to run again.
#
#   HAPROXY=/path, CONSUL=/path   use these instead of looking for or installing one; Consul has to be 1.8 or newer
#   PYTHON=/path                  the Python (3.11 or newer) that makes .venv
#
# With the argument `wrk`, that load tool as well, which nothing needs but the lab's traffic of that name.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly root=$PWD
readonly venv=.venv
readonly cache=${XDG_CACHE_HOME:-$HOME/.cache}/hapsync

readonly consul_version='1.8.7+dfsg1-2+b3'
readonly consul_sha256=e4e888bba104daba1d9161f49bfc52649a7e4efd45b1a7ead5bc54f2cb9c89d9
readonly consul_cached=$cache/consul-$consul_version/usr/bin/consul

# Debian keeps haproxy in sbin, which is not on every user's PATH.
PATH=$PATH:/usr/local/sbin:/usr/sbin

readonly script=bootstrap
# shellcheck source=tests/shell.sh
source tests/shell.sh
# shellcheck source=tests/venv.sh
source tests/venv.sh

# Prints the absolute path of the program that variable $1 (value $2) names; fails when it is none.
named_program() {
  local path
  path=$(command -v -- "$2") || fail "\$$1 is '$2', which is no program that can be run"
  realpath -s -- "$path"
}

# The finders print a path, and install what they can; each runs in a subshell, which `fail` ends.

find_haproxy() {
  if [[ -n ${HAPROXY:-} ]]; then
    named_program HAPROXY "$HAPROXY"
    return
  fi
  if ! command -v haproxy >/dev/null; then
    apt_install haproxy "install HAProxy 2.6 or newer yourself, or set \$HAPROXY to its path"
  fi
  command -v haproxy || fail "haproxy is installed but not on PATH" "set \$HAPROXY to its path"
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

# Whether $1 is a Consul of 1.8 or newer; `consul_said` is then what it calls itself, and else what is wrong with it.
is_consul() {
  consul_said=$(timeout 30 "$1" version 2>/dev/null | head -n 1) || true
  if [[ ! $consul_said =~ ^Consul\ v?([0-9]+)\.([0-9]+) ]]; then
    consul_said="'$1 version' does not say a version of Consul"
    return 1
  fi
  if ((BASH_REMATCH[1] == 1 && BASH_REMATCH[2] < 8 || BASH_REMATCH[1] == 0)); then
    consul_said="$1 is $consul_said, and the tests need 1.8 or newer"
    return 1
  fi
}

find_consul() {
  local found architecture
  if [[ -n ${CONSUL:-} ]]; then
    found=$(named_program CONSUL "$CONSUL") || exit 1
    is_consul "$found" || fail "\$CONSUL: $consul_said"
    printf '%s\n' "$found"
    return
  fi
  if found=$(command -v consul); then
    if is_consul "$found"; then
      printf '%s\n' "$found"
      return
    fi
    say "Consul: $consul_said; looking for another"
  fi
  if [[ -x $consul_cached ]]; then
    printf '%s\n' "$consul_cached"
    return
  fi

  if command -v apt-get >/dev/null; then
    [[ -n $(apt_repositories) ]] || apt_update
    if [[ -z $found ]] && apt_has consul; then
      apt_install consul "set \$CONSUL to the path of Consul 1.8 or newer"
      found=$(command -v consul) || fail "consul is installed but not on PATH" "set \$CONSUL to its path"
      is_consul "$found" || fail "$consul_said"
      printf '%s\n' "$found"
      return
    fi
    architecture=$(dpkg --print-architecture)
    if [[ $architecture == amd64 ]]; then
      say "fetching Debian's consul $consul_version from this machine's own mirror"
      if download_consul; then
        printf '%s\n' "$consul_cached"
        return
      fi
      say "no mirror in this machine's apt sources holds consul $consul_version"
    else
      say "the pinned Debian package of consul is for amd64 only, and this machine is $architecture"
    fi
  fi
  tests/consul.sh 1.14.11 || fail "no Consul of 1.8 or newer found, and none could be had" \
    "install Consul from HashiCorp's packages and put it on PATH, or set \$CONSUL to its path;" \
    "or put Go on PATH, and tests/consul.sh builds one (on amd64 and arm64)"
}

is_new_enough() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
  local candidate candidates=(python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3)
  if [[ -n ${PYTHON:-} ]]; then candidates=("$PYTHON"); fi
  for candidate in "${candidates[@]}"; do
    if is_new_enough "$candidate"; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  fail "needs Python 3.11 or newer; '${candidates[0]}' is $("${candidates[0]}" --version 2>&1 || true)" \
    "install one (Debian 12's python3 is 3.11), or set \$PYTHON to its path"
}

# The Python that makes .venv, with what that needs; nothing where .venv is up to date.
find_python_for_venv() {
  if is_venv_up_to_date; then return; fi
  local python
  python=$(find_python) || exit 1
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    apt_install python3-venv "install what '$python -m venv' needs"
    "$python" -c 'import ensurepip, venv' 2>/dev/null || fail "$python has no venv, and Debian's package does not mend it" \
      "install what '$python -m venv' needs, or set \$PYTHON to another Python of 3.11 or newer"
  fi
  printf '%s\n' "$python"
}

# .venv by the Python $1.
make_venv() {
  local current
  current=$(fingerprint 2>/dev/null) || true
  # .venv is kept when it only lacks packages: made afresh when moved, or of another or a broken Python.
  if [[ ! -f $stamp || $(head -n 2 "$stamp") != "$(head -n 2 <<<"$current")" ]] ||
    ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    say "virtual environment: making .venv with $("$1" --version)"
    "$1" -m venv --clear "$venv"
  fi
  install_packages
}

main() {
  # Two runs at once would install over each other; the lock goes with the process.
  exec 9<"$root/tests/bootstrap.sh"
  flock 9

  # All of them are looked for, so that a person reads at once all that is missing.
  local haproxy consul python program missing=()
  for program in setpriv timeout unshare; do
    command -v "$program" >/dev/null || missing+=("$program (of util-linux or coreutils)")
  done
  haproxy=$(find_haproxy) && say "HAProxy: $haproxy" || missing+=(HAProxy)
  consul=$(find_consul) && say "Consul: $consul" || missing+=(Consul)
  python=$(find_python_for_venv) || missing+=("Python's venv")
  if [[ ${1:-} == wrk ]] && ! command -v wrk >/dev/null; then
    (apt_install wrk "install wrk 4.1 yourself") || missing+=(wrk)
  fi
  if ((${#missing[@]})); then
    fail "missing: $(printf '%s, ' "${missing[@]}" | sed 's/, $//')" "what each needs is said above"
  fi
  if [[ -z $python ]]; then
    say "virtual environment: .venv is up to date"
  else
    make_venv "$python"
  fi
  printf 'HAPROXY=%s\nCONSUL=%s\n' "$haproxy" "$consul" >"$venv/hapsync-tools.env"
}

main "$@"
