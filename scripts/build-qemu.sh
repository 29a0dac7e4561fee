#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Build QEMU with the repository's patches and files.
#
#   build-qemu.sh prepare   packages, sources, tree and configuration
#   build-qemu.sh qemu      all of that, then build/qemu-system-x86_64 and
#                           the test programs that live in QEMU's tree
#   build-qemu.sh build     all of that, then the rest of meson.build
#   build-qemu.sh tree DIR  compile DIR/src, which is ready, in DIR/qemu
#   build-qemu.sh aarch64   compile a small QEMU for Arm, in build/aarch64, from
#                           build/src, which is ready
#   build-qemu.sh tests     print the test programs, relative to build/qemu
#   build-qemu.sh env CMD   run CMD with the meson that the build uses, and with
#                           what the tests import
#
# Environment: QEMU_SRC (the user's own QEMU tree), QEMU_DL_DIR (where
# downloads are kept), JOBS, SKIP_PACKAGES=1 (install nothing), FULL=1 (all
# features that Debian's QEMU has), QEMU_CONFIGURE (options of QEMU's configure
# beside those below). The last two count until they are given anew.

set -eu

top=$(cd "$(dirname "$0")/.." && pwd)
build=$top/build
python=/usr/bin/python3

TARGETS='tests/unit/test-guest-memfd[^/]*
tests/qtest/guest-memfd-[^/]*
tests/vfio-user/[^/]*
tests/guest-memfd/guest-memfd-[^/]*'

# Where Debian's packages have what PCs and their cards need
FIRMWARE='/usr/share/qemu /usr/share/seabios /usr/lib/ipxe/qemu'

TOOLS='qemu-img qemu-io qemu-nbd storage-daemon/qemu-storage-daemon'
# For a test: an example of a vhost-user-blk backend
BACKEND=contrib/vhost-user-blk/vhost-user-blk

# libvfio-user is not a package of Debian: a QEMU that is installed has it inside.
FLAGS="--target-list=x86_64-softmmu --python=$python
    --disable-docs --disable-user --disable-guest-agent --disable-download
    --disable-install-blobs --firmwarepath=$(echo "$FIRMWARE" | tr ' ' :)
    --enable-system --enable-tools --enable-kvm --enable-tcg
    --enable-vfio-user-server -Dlibvfio-user:default_library=static
    --enable-fdt=system"

# From configs/devices/aarch64-softmmu of build/src
ARM_DEVICES=../../../../../tests/build/aarch64/devices

# Without FULL=1: what a server needs, not what opens windows and makes sounds,
# nor clients of network storage
FEATURES="--without-default-features --enable-werror
    --enable-numa --enable-seccomp --enable-tpm --enable-keyring
    --enable-slirp --enable-l2tpv3 --enable-cap-ng --enable-colo-proxy
    --enable-pixman --enable-vnc --enable-vnc-jpeg --enable-vnc-sasl
    --enable-png --enable-curses --enable-iconv --enable-gnutls
    --enable-vhost-kernel --enable-vhost-net --enable-vhost-user
    --enable-vhost-vdpa --enable-vhost-crypto --enable-vhost-user-blk-server
    --enable-libvduse --enable-vduse-blk-export --enable-multiprocess
    --enable-virtfs --enable-attr --enable-libusb --enable-usb-redir
    --enable-hv-balloon --enable-linux-aio --enable-linux-io-uring
    --enable-fuse --enable-replication --enable-zstd --enable-bzip2
    --enable-bochs --enable-cloop --enable-dmg --enable-parallels
    --enable-qcow1 --enable-qed --enable-vdi --enable-vhdx --enable-vmdk
    --enable-vpc --enable-vvfat"

die() {
    echo "build-qemu: $*" >&2
    exit 1
}

if [ -n "${QEMU_SRC:-}" ]; then
    QEMU_SRC=$(cd "$QEMU_SRC" 2>/dev/null && pwd) ||
        die "QEMU_SRC names no directory: set it to an unpacked QEMU tree."
    export QEMU_SRC
fi

# Have the private meson and pycotap, if the system has none
use_tools() {
    private=
    if ! sh "$top/scripts/install-packages.sh" --have-meson; then
        private=$build/tools/usr/lib/python3/dist-packages
        PATH=$build/tools/usr/bin:$PATH
        PYTHONPATH=$private
        export PATH PYTHONPATH
    fi
    # Objects are found again by a clone in another directory.
    export CCACHE_BASEDIR="$top" CCACHE_NOHASHDIR=1
}

# An option: what is given, else what was given last
option() {
    kept=$build/option.$1
    if given=$(printenv "$1"); then
        echo "$given" >"$kept"
    fi
    [ ! -f "$kept" ] || cat "$kept"
}

choose_options() {
    case ${FULL:-0} in
    0 | 1) ;;
    *) die "FULL is $FULL: set it to 1 (all features) or 0 (the default)." ;;
    esac
    FULL=$(option FULL)
    export FULL
    [ "$FULL" != 1 ] || FEATURES=
    FLAGS="$FLAGS $FEATURES $(option QEMU_CONFIGURE)"
}

prepare() {
    [ -f "$build/qemu/build.ninja" ] ||
        sh "$top/scripts/check-space.sh" "$build" 1200 "building QEMU"
    [ -n "${SKIP_PACKAGES:-}" ] ||
        sh "$top/scripts/install-packages.sh" "$build"
    if ! sh "$top/scripts/install-packages.sh" --have-meson; then
        "$python" "$top/scripts/fetch-qemu.py" tools
    fi
    [ -n "${QEMU_SRC:-}" ] || "$python" "$top/scripts/fetch-qemu.py" qemu
    "$python" "$top/scripts/prepare-qemu.py"
    use_tools
    configure qemu configure
}

# In $build/$1; $build/$2.log says how that went
configure() {
    stamp=$build/$2.stamp
    new="$FLAGS
tools: ${private:-system}
$(cksum <"$build/src/configure")"
    if [ -f "$build/$1/build.ninja" ] && [ -f "$stamp" ] &&
        [ "$(cat "$stamp")" = "$new" ]; then
        return
    fi
    log=$build/$2.log
    echo "configuring QEMU $(cat "$build/src/VERSION") (about half a minute;" \
         "output in build/$2.log)"
    mkdir -p "$build/$1"
    rm -f "$stamp"
    # shellcheck disable=SC2086
    if ! (cd "$build/$1" &&
          ../src/configure --cc="ccache gcc" $FLAGS) >"$log" 2>&1; then
        tail -n 25 "$log" >&2
        die "QEMU's configure failed: the lines above and" \
            "build/$2.log say why."
    fi
    if [ -n "$private" ]; then
        # A ninja started by hand finds the private meson, too.
        for dir in "$build/$1"/pyvenv/lib/python3*/site-packages; do
            [ -d "$dir" ] || continue
            echo "$private" >"$dir/private-tools.pth"
        done
    fi
    echo "$new" >"$stamp"
}

# The project's test programs, as far as this tree has them
test_programs() {
    (cd "$build/qemu" && ninja -t targets all) |
        sed -n 's/^\(.*\): c_LINKER.*/\1/p' |
        grep -x "$TARGETS" || true
}

run_ninja() {
    # shellcheck disable=SC2086
    (cd "$build/qemu" && ninja ${JOBS:+-j "$JOBS"} "$@") ||
        die "compiling QEMU failed: the first error above says why."
}

build_qemu() {
    # the list of targets may have changed
    said=$(cd "$build/qemu" && ninja --quiet build.ninja 2>&1) ||
        die "QEMU's build files are wrong: $said"
    # shellcheck disable=SC2046,SC2086
    run_ninja qemu-system-x86_64 $TOOLS $BACKEND $(test_programs)
    for program in qemu-system-x86_64 $TOOLS; do
        ln -sfn "qemu/$program" "$build/$(basename "$program")"
    done

    # Run from its build directory, QEMU looks for the distribution's firmware
    # below qemu-bundle and nowhere else.
    for dir in $FIRMWARE; do
        mkdir -p "$build/qemu/qemu-bundle$(dirname "$dir")"
        ln -sfn "$dir" "$build/qemu/qemu-bundle$dir"
    done
}

build_rest() {
    if [ ! -f "$build/build.ninja" ] &&
        ! meson setup "$build" "$top" >"$build/setup.log" 2>&1; then
        tail -n 25 "$build/setup.log" >&2
        die "meson could not set up build/: the lines above say why."
    fi
    said=$(ninja -C "$build" --quiet programs 2>&1) ||
        die "compiling the test programs failed: $said"
    echo "build/qemu-system-x86_64 is up to date"
}

mkdir -p "$build"
case ${1:-} in
prepare | qemu | build)
    # One at a time: others wait.
    exec 9>"$build/.lock"
    flock 9
    choose_options
    prepare
    [ "$1" = prepare ] || build_qemu
    exec 9>&-
    [ "$1" != build ] || build_rest
    ;;
tree)
    use_tools
    choose_options
    build=$2
    configure qemu configure
    build_qemu
    ;;
aarch64)
    use_tools
    choose_options
    # Options that are those of build/qemu, so that most objects are in ccache
    FLAGS="$FLAGS --target-list=aarch64-softmmu --without-default-devices
        --with-devices-aarch64=$ARM_DEVICES"
    configure aarch64 configure-aarch64
    run_ninja -C ../aarch64 qemu-system-aarch64
    ;;
tests)
    use_tools
    test_programs
    ;;
env)
    shift
    use_tools
    PYTHONPATH=$top/tests:$top/scripts:$top/tools:$build/src/python
    PYTHONPATH=$PYTHONPATH${private:+:$private}
    export PYTHONPATH PYTHONDONTWRITEBYTECODE=1
    exec "$@"
    ;;
*)
    die "usage: $0 prepare | qemu | build | tree DIR | aarch64 | tests |" \
        "env COMMAND..."
    ;;
esac
