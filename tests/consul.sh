#!/usr/bin/env bash
# Prints the path of a Consul of the version named, building it first where it is not there yet:
#
#   tests/consul.sh 1.14.11   the newest that is open source (MPL-2.0): from 1.15 on it needs modules that are not
#
# It is built from the Go module proxy by tests/consul-VERSION/, whose go.sum pins every module. That needs Go, the
# proxy, 4 GB of disk and four minutes of two cores; nothing of it is left but the program.
# Safe to run again, and several at once.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly cache=${XDG_CACHE_HOME:-$HOME/.cache}/hapsync

readonly script=consul
# shellcheck source=tests/shell.sh
source tests/shell.sh

# What the folder $1 needs of Go is in its go.mod.
need_go() {
  local needed said
  needed=$(sed -n 's/^go //p' "$1/go.mod")
  command -v go >/dev/null ||
    fail "Consul is built from source, and there is no go on PATH" "install Go $needed or newer, and run this again"
  said=$(go env GOVERSION) || fail "go does not run: $(command -v go)"
  said=${said#go}
  if ! printf '%s\n' "$needed" "${said%% *}" | sort --version-sort --check=quiet; then
    fail "Consul needs Go $needed or newer, and $(command -v go) is $said" "put a newer one first on PATH"
  fi
}

# Runs a command of Go in the folder $1, with caches that nothing else uses; what it says is shown where it fails.
go_in() {
  local folder=$1 said=$1/said.log
  shift
  if env -C "$folder" GOFLAGS=-modcacherw GOWORK=off GOMODCACHE="$folder/modules" GOCACHE="$folder/built" CGO_ENABLED=0 \
    go "$@" </dev/null >"$said" 2>&1; then
    return
  fi
  tail -n 15 -- "$said" >&2
  return 1
}

# Ends the (sub)shell it runs in when it fails.
build() {
  local version=$1 folder=$2 work said
  # Under the lock nobody else is at work: these were left by runs that were killed.
  rm -rf -- "$folder"/making.*
  work=$(mktemp -d "$folder/making.XXXXXX") || fail "no folder can be made in $folder"
  # shellcheck disable=SC2064  # the folder is known now and gone from scope later
  trap "rm -rf -- '$work'" EXIT
  cp -- "tests/consul-$version"/* "$work" || fail "tests/consul-$version cannot be copied to $work"
  say "fetching the modules of Consul $version from the Go module proxy"
  go_in "$work" list -mod=readonly -deps github.com/hashicorp/consul ||
    fail "the Go module proxy does not give what tests/consul-$version/go.sum names" \
      "is there a network, and is GOPROXY right? see 'go env GOPROXY'"
  say "building Consul $version; this takes some minutes"
  go_in "$work" build -mod=readonly -trimpath -ldflags '-s -w' -o consul github.com/hashicorp/consul ||
    fail "Consul $version could not be built" "it needs 4 GB of disk in $folder"
  said=$("$work/consul" version) || fail "the Consul $version that was built does not run"
  [[ $said == "Consul v$version"$'\n'* ]] || fail "what was built for Consul $version is: ${said%%$'\n'*}"
  # Renamed whole, so that a run cut short never leaves half a Consul behind.
  mv -- "$work/consul" "$folder/consul" || fail "$folder/consul cannot be written"
}

main() {
  local version=${1:-}
  [[ -n $version && -d tests/consul-$version ]] ||
    fail "no such version: '$version'" "there are $(printf '%s\n' tests/consul-*/ | sed 's/.*consul-//; s,/,,')"
  local folder=$cache/consul-$version
  mkdir -p "$folder"
  exec 9<"$folder"
  flock 9
  if [[ ! -x $folder/consul ]]; then
    case $(uname -m) in
      x86_64 | aarch64 | arm64) ;;
      *) fail "Consul $version is built for amd64 and arm64 only, and this machine is $(uname -m)" ;;
    esac
    need_go "tests/consul-$version"
    (build "$version" "$folder") || exit 1
  fi
  printf '%s\n' "$folder/consul"
}

main "$@"
