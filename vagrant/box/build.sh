#!/usr/bin/env bash
# Builds the lab's box without the public ones: a Debian 12 from this machine's own apt sources, with all that
# provision.sh and the lab would fetch (packages, Consul, HAProxy 3.0, wheels), so that the machine needs no network.
#
#   sudo vagrant/box/build.sh     makes the box `hapsync-lab` for libvirt and adds it to vagrant; safe to run again
#
#   IMAGES=/path   where libvirt may read kernel and initrd from (/var/lib/libvirt/images/hapsync-lab unless given)
#
# libvirt boots its kernel and initrd directly, for an image without a boot loader is made by a plain user's tools.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
readonly root=$PWD
readonly images=${IMAGES:-/var/lib/libvirt/images/hapsync-lab}
readonly cache=${XDG_CACHE_HOME:-$HOME/.cache}/hapsync
readonly box=hapsync-lab
readonly gib=6
# Not the cloud kernel: it lacks sch_plug and sch_netem.
readonly kernel=linux-image-amd64
readonly system=(init systemd-sysv udev dbus ifupdown isc-dhcp-client openssh-server sudo rsync ca-certificates kmod)
# What provision.sh installs; the two lists must agree, or it will want a network.
readonly needed=(haproxy iproute2 make mmdebstrap python3 python3-venv util-linux)

readonly script=box
# shellcheck source=tests/shell.sh
source tests/shell.sh

((EUID == 0)) || fail "needs root: it makes a Debian with users of its own" "run it with sudo"

need() {
  local program=$1 package=$2
  PATH=$PATH:/usr/sbin command -v "$program" >/dev/null || apt_install "$package" "install $package yourself"
}

# Into the folder $1: what tests/bootstrap.sh and tests/roots.sh keep, and wheels of all that is pinned.
collect() {
  make bootstrap >&2
  tests/roots.sh 3.0 >/dev/null
  mkdir -p "$1/cache/roots" "$1/wheels"
  cp -a -- "$cache"/consul-* "$1/cache/"
  cp -a -- "$cache/roots/3.0" "$1/cache/roots/"
  local version
  version=$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  [[ $version == 3.11 ]] || fail "the box has Python 3.11, and .venv is of $version: its wheels would not fit" \
    "run PYTHON=/path/of/python3.11 make clean bootstrap first"
  say "fetching wheels"
  .venv/bin/python -m pip download --quiet --disable-pip-version-check --require-hashes \
    --dest "$1/wheels" -r tests/requirements.txt
}

# Prints this machine's own sources for Debian 12, one a line.
sources() {
  [[ -n $(apt_repositories) ]] || apt_update
  apt_repositories | sed 's/.*/deb & bookworm main/'
}

# Unpacks the Debian into the folder $1, from the first archive that has it.
unpack() {
  local folder=$1 source list
  printf -v list '%s,' "$kernel" "${system[@]}" "${needed[@]}"
  while read -r source; do
    rm -rf -- "$folder"
    if mmdebstrap --quiet --variant=minbase --include="${list%,}" --aptopt='Acquire::Check-Valid-Until "false"' \
      bookworm "$folder" "$source" </dev/null >&2; then return; fi
  done < <(sources)
  fail "no archive of this machine's apt sources gives Debian 12"
}

# Makes the Debian in the folder $1 a machine for vagrant, with what is in the folder $2.
furnish() {
  local folder=$1 things=$2
  echo "$box" >"$folder/etc/hostname"
  echo "127.0.0.1 localhost $box" >"$folder/etc/hosts"
  echo "/dev/vda / ext4 noatime 0 1" >"$folder/etc/fstab"
  # None of this machine's own sources: they may not be there where the box goes.
  : >"$folder/etc/apt/sources.list"
  printf 'auto lo eth0\niface lo inet loopback\niface eth0 inet dhcp\n' >"$folder/etc/network/interfaces"
  printf 'UseDNS no\n' >"$folder/etc/ssh/sshd_config.d/hapsync-lab.conf"
  chroot "$folder" useradd --create-home --shell /bin/bash vagrant
  printf 'vagrant ALL=(ALL) NOPASSWD: ALL\n' >"$folder/etc/sudoers.d/vagrant"
  install -d -m 700 "$folder/home/vagrant/.ssh"
  # Vagrant's public pair: it is put away for one of its own at the first `vagrant up`.
  install -m 600 "$(public_key)" "$folder/home/vagrant/.ssh/authorized_keys"
  chroot "$folder" chown -R vagrant:vagrant /home/vagrant/.ssh
  install -d "$folder/root/.cache/hapsync" "$folder/opt/hapsync-wheels"
  cp -a -- "$things/cache/." "$folder/root/.cache/hapsync/"
  cp -- "$things/wheels/"* "$folder/opt/hapsync-wheels/"
  # For provision.sh to see whether the wheels are of an older state of the project.
  cp -- tests/requirements.txt "$folder/opt/hapsync-wheels/"
  printf '[global]\nno-index = true\nfind-links = /opt/hapsync-wheels\n' >"$folder/etc/pip.conf"
  rm -rf -- "$folder"/var/cache/apt/archives/*.deb "$folder"/var/lib/apt/lists/*
}

public_key() {
  local found
  found=$(find / -xdev -path '*vagrant*/keys/vagrant.pub' -print -quit 2>/dev/null)
  [[ -n $found ]] || fail "vagrant's public key is nowhere" "install Debian's package vagrant"
  printf '%s\n' "$found"
}

main() {
  need vagrant vagrant
  need mmdebstrap mmdebstrap
  need qemu-img qemu-utils
  need mke2fs e2fsprogs
  local work
  work=$(mktemp -d "${TMPDIR:-/var/tmp}/hapsync-box.XXXXXX")
  # shellcheck disable=SC2064  # the folder is known now and gone from scope later
  trap "rm -rf -- '$work'" EXIT

  collect "$work/things"
  say "unpacking Debian 12"
  unpack "$work/root"
  furnish "$work/root" "$work/things"
  install -d "$images"
  install -m 644 "$work"/root/boot/vmlinuz-* "$images/vmlinuz"
  install -m 644 "$work"/root/boot/initrd.img-* "$images/initrd.img"
  say "making the image"
  mke2fs -q -t ext4 -d "$work/root" "$work/disk.raw" "${gib}G"
  mkdir "$work/box"
  qemu-img convert -f raw -O qcow2 "$work/disk.raw" "$work/box/box.img"
  printf '{"provider": "libvirt", "format": "qcow2", "virtual_size": %s}\n' "$gib" >"$work/box/metadata.json"
  sed "s#@IMAGES@#$images#" "$root/vagrant/box/Vagrantfile" >"$work/box/Vagrantfile"
  tar -C "$work/box" -czf "$work/$box.box" metadata.json Vagrantfile box.img
  vagrant box add --force --name "$box" "$work/$box.box" >&2
  say "made: vagrant's box $box; its kernel and initrd are in $images"
}

main
