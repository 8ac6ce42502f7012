#!/usr/bin/env bash
# Builds the engine with pip into .venv/, editable: Python sources are used in place. Does nothing when no file that
# the build reads has changed.
set -euo pipefail

stamp=.venv/.installed
inputs=(CMakeLists.txt cmake include src pyproject.toml tools/requirements.txt)
files=$(find "${inputs[@]}" -type f | sort)
newest=$(find "${inputs[@]}" -type f -newer "$stamp" 2> /dev/null | head -n 1 || true)
if [ -z "$newest" ] && [ "$files" = "$(cat "$stamp" 2> /dev/null)" ]; then exit 0; fi
echo "stellatrain: building the engine (the first time takes a few minutes)"
mkdir -p build
.venv/bin/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable . > build/install.log 2>&1 || {
  tail -n 40 build/install.log >&2
  echo "stellatrain: the build failed ($(df --output=avail -h . | tail -n 1 | tr -d ' ') free on this disk); the whole log is build/install.log" >&2
  exit 1
}
printf '%s\n' "$files" > "$stamp"
