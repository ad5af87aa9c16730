# What the scripts share that unpack programs of other Debians; sourced after shell.sh, with `cache`, a folder of theirs.
# shellcheck shell=bash disable=SC2154

need_mmdebstrap() {
  command -v mmdebstrap >/dev/null || apt_install mmdebstrap "install mmdebstrap yourself"
}

# Unpacks the packages $3 (separated by commas) of the suite $1, and what they need, into the folder $2, from the first
# archive that has them.
unpack() {
  local suite=$1 folder=$2 packages=$3 repository sources said=$2.log
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
      --include="$packages" "${suite/experimental/sid}" "$folder" "${sources[@]}" </dev/null >"$said" 2>&1; then
      rm -f -- "$said"
      return
    fi
  done < <(apt_repositories)
  cat -- "$said" >&2
  rm -f -- "$said"
  fail "no archive of this machine's apt sources gives $packages of $suite"
}

# In the root $1, makes the script $2 run the root's own program $3 by the root's own loader, under the script's name.
write_wrapper() {
  local loader up
  loader=$(cd "$1" && find . -path '*lib64/ld-linux-x86-64.so.2' | head -n 1)
  [[ -n $loader ]] || fail "the root in $1 has no loader for amd64"
  up=$(realpath -m --relative-to="$(dirname "/$2")" /)
  cat >"$1/$2" <<WRAPPER
#!/bin/sh
root=\$(dirname "\$(readlink -f "\$0")")/$up
exec "\$root/$loader" --argv0 "\$0" \\
  --library-path "\$root/usr/lib/x86_64-linux-gnu:\$root/lib/x86_64-linux-gnu" "\$root/$3" "\$@"
WRAPPER
  chmod 755 "$1/$2"
}

# Puts $1 in the place of $2, whole, so that a run cut short never leaves half a root behind.
replace() {
  if [[ -d $2 ]]; then mv -- "$2" "$1.old" || fail "$2 cannot be replaced"; fi
  touch -- "$1" # what is unpacked has the time of its archive
  mv -- "$1" "$2" || fail "$2 cannot be written"
}

# Whether $1 was fetched so many days ago that it is fetched anew, since Debian mends its packages.
readonly days=30
is_old() { [[ -n $(find "$1" -maxdepth 0 -mtime "+$((days - 1))") ]]; }

need_amd64() { [[ $(dpkg --print-architecture) == amd64 ]] || fail "$1 are for amd64 only"; }
