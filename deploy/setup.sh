#!/usr/bin/env bash
# Sets up a checkout: Debian packages that are missing, and .venv with offhost, its extras and the development tools,
# at the versions of constraints.txt. Quick when nothing changed since it last succeeded.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*"; }

# What the project needs of the system, each as: a file or command that proves it is there, and its Debian package.
missing_packages() {
  python3 -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || echo python3 python3-venv
  command -v go >/dev/null || echo golang-go
  [ -d /usr/share/gocode/src/github.com/vmware/govmomi ] || echo golang-github-vmware-govmomi-dev
  command -v mkfs.ext4 >/dev/null || [ -x /sbin/mkfs.ext4 ] || echo e2fsprogs
  command -v qemu-img >/dev/null || echo qemu-utils
  command -v mksquashfs >/dev/null || [ -x /usr/sbin/mksquashfs ] || echo squashfs-tools
  command -v systemd-analyze >/dev/null || echo systemd
}

install_packages() {
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
      as_root=(sudo -n env DEBIAN_FRONTEND=noninteractive)
    else
      say "these packages are missing, and installing them needs root. Run:"
      say "    apt-get update && apt-get install --no-install-recommends $*"
      exit 1
    fi
  fi
  command -v apt-get >/dev/null || { say "not a Debian system; install what provides: $*"; exit 1; }
  say "installing Debian packages (a minute or two): $*"
  export DEBIAN_FRONTEND=noninteractive
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

wanted_state() {
  { python3 --version; cat pyproject.toml deploy/constraints.txt deploy/setup.sh; } | sha256sum
}

install_python_packages() {
  say "installing offhost and its Python packages into .venv (about a minute)"
  [ -x .venv/bin/python ] || python3 -m venv .venv
  # As an environment variable the pins hold for the build back end as well.
  PIP_CONSTRAINT=$PWD/deploy/constraints.txt .venv/bin/python -m pip install \
    --quiet --disable-pip-version-check --editable '.[proxy,dev]'
}

packages=$(missing_packages)
# Word splitting is wanted: one package a word.
# shellcheck disable=SC2086
[ -z "$packages" ] || install_packages $packages

stamp=.venv/.setup-done
if [ "$(cat "$stamp" 2>/dev/null)" != "$(wanted_state)" ]; then
  install_python_packages
  wanted_state >"$stamp"
fi
