/*
 * Where another CPU starts: from real mode to a stack of its own
 *
 * smp.c copies the trampoline to a page below 1 MiB.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "smp.h"

#define CODE_SELECTOR   0x08
#define DATA_SELECTOR   0x10

    .text
    .code16
    .globl  trampoline
trampoline:
    cli
    lgdtl   %cs:(gdt_pointer - trampoline)
    movl    %cr0, %eax
    orl     $1, %eax
    movl    %eax, %cr0
    ljmpl   $CODE_SELECTOR, $enter

    .balign 4
gdt_pointer:
    .word   gdt_end - gdt - 1
    .long   gdt
    .globl  trampoline_end
trampoline_end:

    .code32
enter:
    movl    $DATA_SELECTOR, %eax
    movl    %eax, %ds
    movl    %eax, %es
    movl    %eax, %ss
    cld
    xorl    %ebp, %ebp

    /* its number, and the end of its stack */
    movl    $1, %eax
    lock xaddl %eax, cpus_started
    cmpl    $MAX_CPUS, %eax
    jae     halt
    incl    %eax
    imull   $STACK_SIZE, %eax
    leal    stacks(%eax), %esp
    call    smp_main
    jmp     halt

    .section .rodata
    .balign 8
gdt:
    .quad   0
    .quad   0x00cf9b000000ffff          /* code: flat, 32 bits */
    .quad   0x00cf93000000ffff          /* data: flat, 32 bits */
gdt_end:

    .section .note.GNU-stack, "", @progbits
