#!/usr/bin/env bash
# Formatting, lint, and that the docs' commands and names exist. Changes nothing.
set -euo pipefail
git ls-files '*.cpp' '*.hpp' | xargs .venv/bin/clang-format --dry-run -Werror
.venv/bin/ruff format --check --quiet .
.venv/bin/ruff check --quiet .
.venv/bin/python tools/check_docs.py
