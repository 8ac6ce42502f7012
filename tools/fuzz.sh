#!/usr/bin/env bash
# usage: tools/fuzz.sh SECONDS. Builds the fuzz targets with the newest clang that has libFuzzer, and runs each
# for so long. Without any clang, `make test` runs the same targets for a second each (fuzz/short_run.cpp).
set -euo pipefail

if [[ ! ${1:-} =~ ^[1-9][0-9]*$ ]]; then
  echo "fuzz: FUZZ_SECONDS is '${1:-}'; it must be a whole number, at least 1" >&2
  exit 2
fi

# A clang may be there without its runtime: only a program that links tells.
has_libfuzzer() {
  echo 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }' |
    "$1" -x c++ -fsanitize=fuzzer,address,undefined -o "$probe" - 2> /dev/null
}

probe=$(mktemp)
trap 'rm -f "$probe"' EXIT
chosen=
for clang in $(compgen -c clang++ | grep -E '^clang\+\+(-[0-9]+)?$' | sort -u | sort -t - -k 2 -n -r); do
  if has_libfuzzer "$clang"; then chosen=$clang; break; fi
done
if [ -z "$chosen" ]; then
  echo "fuzz: needs a clang with libFuzzer: apt-get install clang libclang-rt-dev" >&2
  exit 1
fi

echo "fuzz: with $chosen"
cmake --preset fuzz -DCMAKE_CXX_COMPILER="$chosen"
for target in $(basename -s .cpp -a fuzz/*_fuzz.cpp); do
  cmake --build build/fuzz --target "$target"
  "build/fuzz/fuzz/$target" -max_total_time="$1" -print_final_stats=1
done
