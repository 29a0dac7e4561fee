/*
 * Multiboot entry: protected mode, flat segments, no paging, no interrupts
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "smp.h"

#define MULTIBOOT_MAGIC 0x1badb002
/* align modules, give memory information */
#define MULTIBOOT_FLAGS 0x00000003

    .section .multiboot, "a"
    .balign 4
    .long   MULTIBOOT_MAGIC
    .long   MULTIBOOT_FLAGS
    .long   -(MULTIBOOT_MAGIC + MULTIBOOT_FLAGS)

    .text
    .globl  start
start:
    cli
    cld
    movl    $(stacks + STACK_SIZE), %esp
    xorl    %ebp, %ebp
    pushl   %ebx
    pushl   %eax
    call    guest_main

    .globl  halt
halt:
    cli
    hlt
    jmp     halt

    .bss
    .balign 16
    .globl  stacks
stacks:
    .skip   MAX_CPUS * STACK_SIZE

    .section .note.GNU-stack, "", @progbits
