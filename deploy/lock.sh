#!/usr/bin/env bash
# Writes constraints.txt anew: the newest versions of all packages that offhost, its extras and its tools ask for.
# To be followed by `make test`, since these are the versions offhost is then said to be tested with.
set -euo pipefail
cd "$(dirname "$0")/.."
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
echo "lock: installing everything anew to see what it comes to, about a minute"
python3 -m venv "$fresh"
"$fresh/bin/python" -m pip install --quiet --disable-pip-version-check '.[proxy,dev]'
{
  echo "# The versions offhost is tested with. Written by \`make lock\`."
  "$fresh/bin/python" -m pip freeze --disable-pip-version-check | grep -E '^[A-Za-z0-9._-]+==' | grep -v '^offhost=='
} >deploy/constraints.txt
