# What the scripts share that make a virtual environment; sourced after shell.sh, with `venv`, its folder.
# shellcheck shell=bash disable=SC2154

readonly stamp=$venv/hapsync-bootstrap.stamp

# What the virtual environment must have been made from to be used as it is.
fingerprint() {
  [[ -x $venv/bin/python ]] || return 1
  "$venv/bin/python" --version || return 1
  printf '%s\n' "$PWD" # an editable install and its scripts hold this path
  sha256sum tests/requirements.txt pyproject.toml
}

is_venv_up_to_date() {
  local current
  current=$(fingerprint 2>/dev/null) && [[ -f $stamp && $current == "$(<"$stamp")" ]]
}

install_packages() {
  rm -f -- "$stamp"
  say "virtual environment: installing tests/requirements.txt"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r tests/requirements.txt
  say "virtual environment: installing hapsync itself, editable"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
  fingerprint >"$stamp"
}
