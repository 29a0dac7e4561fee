/*
 * Firmware that starts in private memory
 *
 * For machines that are launched from private memory and converted in place: 64
 * KiB below 4 GiB, no stack and nothing else that is not in the image.  It fills
 * a page of RAM, shares it by KVM_HC_MAP_GPA_RANGE, waits for a byte on COM1,
 * takes the page back, and wants to find its data each time.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define PAGE_ADDRESS    0x1000000
#define PATTERN         0x600dda7a
#define HC_MAP_GPA      12
#define HC_ENCRYPTED    (1 << 4)

#define DEBUGCON        0xe9
#define DEBUG_EXIT      0xf4
#define EXIT_PASS       0x10
#define EXIT_FAIL       0x11
#define COM1            0x3f8
#define COM1_LSR        (COM1 + 5)
#define LSR_DATA_READY  0x01

    .section .reset, "ax"
    .code16
    jmp     start16

    .text
    .globl  start
start:
start16:
    cli
    cld
    lgdtl   %cs:(gdtr - start16)
    movl    %cr0, %eax
    orl     $1, %eax
    movl    %eax, %cr0
    ljmpl   $8, $start32

    .balign 8
gdt:
    .quad   0
    .quad   0x00cf9b000000ffff          /* code, flat */
    .quad   0x00cf93000000ffff          /* data, flat */
gdtr:
    .word   gdtr - gdt - 1
    .long   gdt

    .code32
/* Prints the string at a label; no stack. */
    .macro  say text
    movl    $\text, %esi
    movl    $1f, %ebp
    jmp     print
1:
    .endm

/* The host is asked to make the page private or shared; fails if it refuses. */
    .macro  convert attributes
    movl    $HC_MAP_GPA, %eax
    movl    $PAGE_ADDRESS, %ebx
    movl    $1, %ecx
    movl    $\attributes, %edx
    cmpl    $0, %edi
    je      2f
    vmmcall
    jmp     3f
2:  vmcall
3:  testl   %eax, %eax
    movl    $refused, %esi
    jnz     fail
    .endm

    .macro  want value
    cmpl    $\value, PAGE_ADDRESS
    movl    $lost, %esi
    jne     fail
    .endm

start32:
    movw    $16, %ax
    movw    %ax, %ds
    movw    %ax, %es
    movw    %ax, %ss
    say     hello

    /* Which instruction is the hypercall?  "Auth" of AuthenticAMD */
    xorl    %edi, %edi
    xorl    %eax, %eax
    cpuid
    cmpl    $0x68747541, %ebx
    jne     4f
    incl    %edi
4:
    want    0
    movl    $PATTERN, PAGE_ADDRESS
    want    PATTERN
    convert 0
    want    PATTERN
    say     paused
wait:
    pause                               /* QEMU's main loop waits for us, too */
    movw    $COM1_LSR, %dx
    inb     %dx, %al
    testb   $LSR_DATA_READY, %al
    jz      wait
    movw    $COM1, %dx
    inb     %dx, %al

    convert HC_ENCRYPTED
    want    PATTERN
    say     pass
    movl    $EXIT_PASS, %eax
    jmp     leave

fail:
    movl    $5f, %ebp
    jmp     print
5:  movl    $EXIT_FAIL, %eax
leave:
    outl    %eax, $DEBUG_EXIT
6:  hlt
    jmp     6b

/* %esi: string, %ebp: where to go on */
print:
    lodsb
    testb   %al, %al
    jz      7f
    outb    %al, $DEBUGCON
    jmp     print
7:  jmp     *%ebp

hello:      .asciz "firmware: runs\n"
paused:     .asciz "PAUSED\n"
pass:       .asciz "PASS\n"
refused:    .asciz "FAIL: the hypercall was refused\n"
lost:       .asciz "FAIL: the page has other data\n"

    .section .note.GNU-stack, "", @progbits
