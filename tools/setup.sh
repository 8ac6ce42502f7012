#!/usr/bin/env bash
# Installs what is missing on Debian 12/13 or Ubuntu 24.04: system packages by apt, Python packages into .venv/.
# Quick when nothing is missing. Run from the project's root.
set -euo pipefail

packages=(build-essential cmake ninja-build ccache pkg-config git iproute2 util-linux
          libasio-dev libssl-dev libhwy-dev libspdlog-dev libxxhash-dev libgtest-dev libbenchmark-dev
          python3-dev python3-venv dataset-fashion-mnist)
stamp=.venv/.setup-$(cat tools/setup.sh tools/requirements.txt | sha256sum | cut -c1-16)
unfinished=.venv/.unfinished  # there while .venv/ is being filled

say() { echo "stellatrain: $*"; }
fail() { echo "stellatrain: $*" >&2; exit 1; }
space() { df --output=avail -h . | tail -n 1 | tr -d ' '; }

command -v apt-get > /dev/null || fail "this script needs apt (Debian 12/13, Ubuntu 24.04); elsewhere install: ${packages[*]}"
installed=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' "${packages[@]}" 'python3.*-doc' 2> /dev/null || true)
missing=()
for package in "${packages[@]}"; do
  grep -qx "$package installed" <<< "$installed" || missing+=("$package")
done
# The documentation of the system's own Python is the demo's text; any version will do.
if ! grep -q -- '-doc installed$' <<< "$installed"; then
  python_doc=$(apt-cache depends python3-doc 2> /dev/null | sed -n 's/.*Depends: \(python3\.[0-9]*-doc\)$/\1/p' | head -n 1)
  missing+=("${python_doc:-python3-doc}")
fi
if [ ${#missing[@]} -gt 0 ]; then
  say "installing system packages: ${missing[*]}"
  as_root=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo > /dev/null || fail "not root and no sudo: ask for 'apt-get install ${missing[*]}'"
    as_root=(sudo)
  fi
  # sudo drops the environment, so it is set behind it; the lock may be held by the updates of a machine just started.
  apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300)
  "${apt[@]}" update || fail "apt-get update failed: is there a network?"
  "${apt[@]}" install -y --no-install-recommends "${missing[@]}" > /dev/null ||
    fail "apt-get could not install ${missing[*]} ($(space) free on this disk)"
fi

# The system packages were looked at above, each time; the stamp stands for .venv/ alone.
works() { [ ! -e "$unfinished" ] && .venv/bin/python -c 'import pip' 2> /dev/null; }
if works && [ -e "$stamp" ]; then exit 0; fi
if ! works; then
  if [ -e .venv ]; then
    compgen -G '.venv/.setup-*' > /dev/null || [ -e "$unfinished" ] ||
      fail ".venv/ was not made here and holds no working Python with pip: remove it"
    say ".venv/ was left unfinished, or its Python is gone: making it anew"
  fi
  mkdir -p .venv && touch "$unfinished" || fail "cannot write to .venv/ ($(space) free on this disk)"
  rm -rf .venv/* .venv/.setup-* .venv/.installed build/python  # CMake remembers the old Python there
  say "making the Python environment in .venv/"
  python3 -m venv .venv || fail "python3 -m venv failed ($(space) free on this disk)"
fi
touch "$unfinished"
say "installing Python packages into .venv/ (torch is large; this happens once)"
.venv/bin/pip install --quiet --disable-pip-version-check -r tools/requirements.txt ||
  fail "pip could not install tools/requirements.txt into .venv/: is there a network, and room? ($(space) free on this disk)"
rm -f .venv/.setup-*
touch "$stamp"
rm "$unfinished"
