#!/usr/bin/env bash
# usage: tools/emulate_avx512.sh   (from the project's root, with the tests built in build/dev)
# Runs the tests of everything that differs between instruction sets on an emulated processor with AVX-512: Debian's
# kernel in the emulator Bochs, which has every AVX-512 instruction in software. docs/testing.md says what that shows.
set -euo pipefail

work=build/avx512
limit_s=${EMULATE_SECONDS:-3600}
packages=(bochs bochs-term bochsbios busybox-static isolinux syslinux-common xorriso)
# Each test binary with a filter of its cases: of the selectors', not those that repeat one choice thousands of times to
# see its statistics (ten minutes here); of the engine's, those that train or compare instruction sets.
same_bits='BitIdentity.*'  # but for runs with codes, which take minutes here: those of the rule have some
slow='*NorWithCodesAndLargerBlocks'
tests=("kernels *" "optim *" "compress -Energy.*:ThresholdSelectorTest.*:*NoPlaceInTheBucket*"
       "engine $same_bits:SparseRule.*:Digest.*-$slow")

say() { echo "stellatrain: $*"; }
fail() { echo "stellatrain: $*" >&2; exit 1; }

install_packages() {
  dpkg -s "${packages[@]}" > /dev/null 2>&1 && return
  say "installing system packages: ${packages[*]}"
  local as_root=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo > /dev/null || fail "not root and no sudo: ask for 'apt-get install ${packages[*]}'"
    as_root=(sudo)
  fi
  "${as_root[@]}" apt-get update -qq &&
    DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -qq -y --no-install-recommends "${packages[@]}" \
      > /dev/null || fail "apt-get could not install ${packages[*]}"
}

# Debian's kernel for virtual machines, unpacked here and not installed.
get_kernel() {
  compgen -G "$work/kernel/boot/vmlinuz-*" > /dev/null && return
  local package
  package=$(apt-cache depends linux-image-cloud-amd64 2> /dev/null | sed -n 's/.*Depends: \(linux-image-.*\)/\1/p')
  [ -n "$package" ] || fail "apt knows no linux-image-cloud-amd64: this needs Debian's packages (and apt-get update)"
  say "getting $package"
  (cd "$work" && rm -f linux-image-*.deb && apt-get download -qq "$package" 2> /dev/null) ||
    fail "apt-get could not download $package"
  dpkg -x "$work"/linux-image-*.deb "$work/kernel"
  rm "$work"/linux-image-*.deb
}

# A RAM disk with the test binaries, the libraries they load, and an init that runs them.
make_initrd() {
  local root=$work/root name binary library
  rm -rf "$root"
  mkdir -p "$root"/{bin,proc,tmp}
  cp /bin/busybox "$root/bin/"
  {
    echo '#!/bin/busybox sh'
    echo '/bin/busybox --install /bin; mount -t proc none /proc; mount -t devtmpfs none /dev; ip link set lo up'
    # Errors of Bochs 2.7: lazy binding, which saves the registers with XSAVEC, faults; OpenSSL's elliptic curves with
    # ADX instructions are wrong.
    echo 'export LD_BIND_NOW=1 OPENSSL_ia32cap=:~0x80000'
    echo 'grep -m 1 "^model name" /proc/cpuinfo; grep -m 1 ^flags /proc/cpuinfo'
    for test in "${tests[@]}"; do
      name=${test%% *}
      echo "/bin/${name}_test --gtest_color=no --gtest_brief=1 --gtest_filter='${test#* }' 2> /tmp/log"
      echo "status=\$?; [ \$status = 0 ] || { tail -n 100 /tmp/log; dmesg | tail -n 3; }"
      echo "echo \"exit status of ${name}_test: \$status\""
    done
    echo 'echo "the emulated machine is done"; sleep 5; poweroff -f'  # the serial port's buffer runs dry
  } > "$root/init"
  chmod +x "$root/init"
  for test in "${tests[@]}"; do
    name=${test%% *}
    binary=build/dev/tests/$name/${name}_test
    [ -x "$binary" ] || fail "$binary is not there: run 'make build-tests' first"
    strip -o "$root/bin/${name}_test" "$binary"
    for library in $(ldd "$binary" | grep -o '/[^ ]*'); do
      mkdir -p "$root$(dirname "$library")"
      cp -Lu "$library" "$root$library"
    done
  done
  (cd "$root" && find . | busybox cpio -o -H newc 2> /dev/null) > "$work/cd/isolinux/initrd"
}

make_cd() {
  mkdir -p "$work/cd/isolinux"
  make_initrd
  cp "$work"/kernel/boot/vmlinuz-* "$work/cd/isolinux/vmlinuz"
  cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 "$work/cd/isolinux/"
  printf '%s\n' 'default tests' 'label tests' 'linux vmlinuz' 'initrd initrd' \
    'append console=ttyS0 quiet panic=-1 mitigations=off nokaslr tsc=reliable noxsaves clearcpuid=xsavec' \
    > "$work/cd/isolinux/isolinux.cfg"
  xorriso -as mkisofs -quiet -o "$work/cd.iso" -b isolinux/isolinux.bin -c isolinux/boot.cat -no-emul-boot \
    -boot-load-size 4 -boot-info-table "$work/cd" 2> /dev/null || fail "xorriso could not make $work/cd.iso"
}

# The emulated machine: what its serial port says goes to serial.txt. Debian's Bochs starts in its debugger, which is
# told to go on; powering off ends it with a status of 1. Bochs 2.7 reports sizes for XSAVES that Linux does not accept
# (it would switch AVX off), hence noxsaves and clearcpuid above.
emulate() {
  cat > "$work/bochsrc" << END
config_interface: textconfig
display_library: term
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
cpu: model=corei7_skylake_x, count=1, ips=100000000, reset_on_triple_fault=0
memory: guest=512, host=512
clock: sync=none
ata0-master: type=cdrom, path=$work/cd.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$work/serial.txt
log: $work/bochs.log
panic: action=fatal
error: action=ignore
END
  echo continue > "$work/commands"
  rm -f "$work/serial.txt"
  TERM=vt100 timeout "$limit_s" script -qec "bochs-bin -q -f $work/bochsrc -rc $work/commands" /dev/null \
    < /dev/null > "$work/screen.txt" 2>&1 || true
  [ -s "$work/serial.txt" ] || fail "the emulated machine did not start: see $work/bochs.log and $work/screen.txt"
  sed -i 's/\r$//' "$work/serial.txt"
}

# "digest of staleness 0: 2c04..." for each, without the target it was computed on: one line each if all are equal.
digests() { sed -n 's/^\(digest of .*\) on [^:]*/\1/p' | sort -u; }

check() {
  local said=$work/serial.txt flag test name
  grep -q '^the emulated machine is done' "$said" ||
    { tail -n 20 "$said" >&2; fail "the tests did not end in $limit_s s; the machine's last lines are above"; }
  for flag in f vl dq bw cd; do
    grep -qw "avx512$flag" "$said" || fail "the emulated processor has no avx512$flag: see $said"
  done
  [ "$(grep -c '^targets tested: avx3 avx2 ' "$said")" = ${#tests[@]} ] ||
    fail "not every test binary found AVX-512 (\"avx3\"): see $said"
  for test in "${tests[@]}"; do
    name=${test%% *}_test
    grep -q "^exit status of $name: 0" "$said" || { cat "$said" >&2; fail "$name failed on AVX-512; see above"; }
  done
  [ "$(grep -c '\[  PASSED  \]' "$said")" = ${#tests[@]} ] || fail "not every test binary says PASSED: see $said"
  # The digests of a run there, on each of its targets, are those of the same binary here.
  build/dev/tests/engine/engine_test --gtest_filter="$same_bits-$slow" 2> /dev/null | digests > "$work/digests-here"
  digests < "$said" > "$work/digests-there"
  [ -s "$work/digests-here" ] && cmp -s "$work/digests-here" "$work/digests-there" ||
    fail "the digests there are not those of this machine: see $work/digests-there and $work/digests-here"
}

command -v apt-get > /dev/null || fail "this script needs apt (Debian 12)"
mkdir -p "$work"
install_packages
get_kernel
make_cd
say "running the tests on an emulated processor with AVX-512 (minutes; $work/serial.txt grows meanwhile)"
start=$SECONDS
emulate
check
grep -E '^targets tested|\[=====.*ran|^digest of' "$work/serial.txt" | sort -u
say "passed on AVX-512 after $((SECONDS - start)) s"
