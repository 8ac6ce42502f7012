#!/usr/bin/env bash
# usage: tools/fuzz.sh SECONDS. Builds the fuzz targets with clang and runs each for so long.
set -euo pipefail
command -v clang++-14 > /dev/null || { echo "fuzz: needs clang-14 and libclang-rt-14-dev (apt-get install)" >&2; exit 1; }
cmake --preset fuzz
for target in $(basename -s .cpp -a fuzz/*_fuzz.cpp); do
  cmake --build build/fuzz --target "$target"
  "build/fuzz/fuzz/$target" -max_total_time="$1" -print_final_stats=1
done
