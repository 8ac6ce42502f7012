#!/usr/bin/env bash
# Builds the engine with pip into .venv/, editable: Python sources are used in place. Does nothing when no file that
# the build reads has changed.
set -euo pipefail

stamp=.venv/.installed
newest=$(find CMakeLists.txt cmake include src pyproject.toml -type f -newer "$stamp" 2> /dev/null | head -n 1 || true)
if [ -e "$stamp" ] && [ -z "$newest" ]; then exit 0; fi
echo "stellatrain: building the engine (the first time takes a few minutes)"
mkdir -p build
.venv/bin/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable . > build/install.log 2>&1 || {
  tail -n 40 build/install.log >&2
  echo "stellatrain: the build failed ($(df --output=avail -h . | tail -n 1 | tr -d ' ') free on this disk); the whole log is build/install.log" >&2
  exit 1
}
touch "$stamp"
