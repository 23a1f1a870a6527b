#!/bin/sh
# Make the peers' virtual environment: benchmarks/peers/setup.sh [FOLDER]; PYTHON says which Python.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
venv=${1:-"$here/../../build/peers-venv"}
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet -r "$here/requirements.txt"
"$venv/bin/python" -m pip install --quiet -e "$here/../.."
echo "$venv/bin/python"
