#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Build the guest: build.sh OUTPUT LINKER-SCRIPT SOURCE...
# Without arguments: build.sh makes guest.elf in the current directory.

set -eu

if [ $# -eq 0 ]; then
    dir=$(dirname "$0")
    set -- guest.elf "$dir/link.ld" "$dir/boot.S" "$dir/smp.S" "$dir"/*.c
fi
out=$1
script=$2
shift 2

exec ${GUEST_CC:-gcc} -m32 -march=i686 -std=gnu11 -O2 -g -Wall -Wextra \
    -Wmissing-prototypes -Werror \
    -ffreestanding -fno-pic -fno-pie -fno-stack-protector -fcf-protection=none \
    -fno-asynchronous-unwind-tables -fno-builtin -mgeneral-regs-only \
    -nostdlib -static -no-pie -Wl,--build-id=none -Wl,--no-warn-rwx-segments \
    -Wl,-T,"$script" -o "$out" "$@"
