#!/usr/bin/env bash
# Writes constraints.txt from what .venv holds: the versions the project was last tested with.
set -euo pipefail
cd "$(dirname "$0")/.."
{
  echo "# Versions offhost is tested with. Written by \`make lock\`."
  PYTHONWARNINGS=ignore .venv/bin/python -m pip freeze --exclude-editable --all --disable-pip-version-check |
    grep -E '^[A-Za-z0-9._-]+==' | grep -vE '^(pip|setuptools|wheel|offhost)=='
} >deploy/constraints.txt
