# What the scripts here share; each sets `script`, the name it speaks under, before it sources this.
# shellcheck shell=bash disable=SC2154

say() { printf '%s: %s\n' "$script" "$*" >&2; }

fail() {
  printf '%s: error: %s\n' "$script" "$1" >&2
  shift
  if (($#)); then printf '  %s\n' "$@" >&2; fi
  exit 1
}

as_root() {
  if ((EUID == 0)); then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    fail "needs root to run: $*" "run it as root, or install sudo"
  fi
}

# Refreshes apt's package lists, once a run at most, whichever of its subshells asks.
readonly apt_updated=${TMPDIR:-/tmp}/hapsync-apt-updated.$$
trap 'rm -f -- "$apt_updated"' EXIT
apt_update() {
  if [[ -e $apt_updated ]]; then return; fi
  say "refreshing apt's package lists"
  as_root apt-get update -q >/dev/null || say "apt-get update failed; going on with the lists there are"
  : >"$apt_updated"
}

# Prints the archives this machine's own apt sources name, one a line; nothing before the first apt-get update.
apt_repositories() {
  # shellcheck disable=SC2016  # apt-get, not the shell, fills the format in
  apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Component: main' | sort -u
}

apt_has() {
  local policy
  policy=$(LC_ALL=C apt-cache policy "$1" 2>/dev/null) || return 1
  [[ $policy == *Candidate:* && $policy != *'Candidate: (none)'* ]]
}

# Installs Debian's package $1; $2 says what to do where that cannot be.
apt_install() {
  local package=$1
  command -v apt-get >/dev/null || fail "cannot install $package: this machine has no apt-get" "$2"
  apt_has "$package" || apt_update
  say "installing Debian's package $package"
  # Lists that are older than the archive name versions it no longer holds, so a failure earns one refresh.
  if ! as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$package" >/dev/null; then
    apt_update
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$package" >/dev/null ||
      fail "apt-get could not install $package" "$2"
  fi
}
