#!/usr/bin/env bash
# Makes the machine ready for the lab, as root, in the project's folder; safe to run again.
# Needs Debian's packages and PyPI, or a box of box/build.sh, which holds both.
set -euo pipefail

cd "${1:-/home/vagrant/hapsync}"
readonly needed=(haproxy iproute2 make mmdebstrap python3 python3-venv util-linux)

missing=()
for package in "${needed[@]}"; do
  dpkg-query --show --showformat '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed ||
    missing+=("$package")
done
if ((${#missing[@]})); then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q
  apt-get install -q -y --no-install-recommends "${missing[@]}"
fi
# HAProxy is the lab's to start, not the system's.
systemctl disable --quiet --now haproxy 2>/dev/null || true
# Kept for the plug way; without them the lab says so and leaves it out.
for module in sch_plug sch_prio sch_netem cls_u32 cls_fw; do
  modprobe "$module" || echo "provision: this kernel has no $module" >&2
done
make bootstrap || {
  readonly wheels=/opt/hapsync-wheels
  if [[ -d $wheels ]] && ! cmp -s tests/requirements.txt "$wheels/requirements.txt"; then
    echo "provision: this box has wheels for another tests/requirements.txt:" \
      "build it anew (vagrant/box/build.sh), then vagrant destroy and vagrant up" >&2
  fi
  exit 1
}
tests/roots.sh 3.0
