#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Build build/kernel/bzImage: tinyconfig plus tests/rig/kernel/config, and those of
# KVM's selftests that concern guest_memfd in build/selftests, once for each version
# of the source and of the configuration.
#
# Environment: KERNEL_SRC (the user's own Linux 7.3 tree), QEMU_DL_DIR, JOBS.

set -eu

top=$(cd "$(dirname "$0")/../../.." && pwd)
build=$top/build
out=$build/kernel
selftests=$build/selftests
fragment=$top/tests/rig/kernel/config
log=$build/kernel.log

die() {
    echo "kernel/build.sh: $*" >&2
    exit 1
}

mkdir -p "$build"
exec 9>"$build/.kernel.lock"
flock 9

[ -f "$out/arch/x86/boot/bzImage" ] ||
    sh "$top/scripts/check-space.sh" "$build" 2500 "building the rig's kernel"
/usr/bin/python3 "$top/scripts/fetch-kernel.py" || exit 1
src=$(cd "${KERNEL_SRC:-$build/kernel-src}" && pwd)

run_make() {
    nice make -C "$src" O="$out" ARCH=x86_64 CC="ccache gcc" \
        HOSTCC="ccache gcc" KBUILD_BUILD_USER=rig KBUILD_BUILD_HOST=rig \
        KBUILD_BUILD_TIMESTAMP='1 Jan 2026' "$@" >>"$log" 2>&1 || {
        grep -E -A 3 'error:|Error [0-9]|\*\*\*' "$log" | head -n 25 >&2
        die "building the kernel failed: the lines above and" \
            "build/kernel.log say why."
    }
}

version=$(sed -n 's/^\(VERSION\|PATCHLEVEL\|SUBLEVEL\) *= *//p' \
              "$src/Makefile" | paste -sd .)
stamp=$build/kernel.stamp
new="$version $(cat "$build/kernel-src.stamp" 2>/dev/null || true)
${KERNEL_SRC:-}
$(cksum <"$fragment") $(cksum <"$0") $(gcc -dumpfullversion)"
# The user's own tree may have changed: make knows.
if [ -z "${KERNEL_SRC:-}" ] && [ -f "$out/arch/x86/boot/bzImage" ] &&
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$new" ]; then
    exit 0
fi

echo "building Linux $version for the rig (about 15 minutes on two cores" \
     "the first time; output in build/kernel.log)"
# Objects are found again by a clone in another directory.
export CCACHE_BASEDIR="$top" CCACHE_NOHASHDIR=1
mkdir -p "$out"
rm -f "$stamp"
: >"$log"
run_make tinyconfig
(cd "$out" && sh "$src/scripts/kconfig/merge_config.sh" -m -O . .config \
    "$fragment") >>"$log" 2>&1 ||
    die "merge_config.sh failed: build/kernel.log says why."
run_make olddefconfig
missing=$(sed -n 's/^\(CONFIG_.*\)=n$/# \1 is not set/; /CONFIG_/p' "$fragment" |
          grep -vxF -f "$out/.config" || true)
[ -z "$missing" ] ||
    die "this kernel does not take these lines of tests/rig/kernel/config:" \
        "$(echo "$missing" | paste -sd " ")"
jobs=${JOBS:-$(nproc)}
run_make -j "$jobs" bzImage headers

# TMPOUT is in the source otherwise, which may be the user's own.
run_make -j "$jobs" -C tools/testing/selftests/kvm OUTPUT="$selftests" \
    KHDR_INCLUDES="-isystem $out/usr/include" USERLDFLAGS="-static -s" \
    TMPOUT="$selftests/.tmp_\$\$\$\$" \
    "$selftests/guest_memfd_test" "$selftests/pre_fault_memory_test" \
    "$selftests/x86/private_mem_conversions_test" \
    "$selftests/x86/private_mem_kvm_exits_test"
echo "$new" >"$stamp"
