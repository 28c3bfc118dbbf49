# What the throw-away VM of `offhost acceptance` runs from its disk's first sector: it writes 64 sectors at each of
# three places through the BIOS, as a guest does, and switches the VM off.
#
#   as --32 guest.S -o guest.o && objcopy -O binary guest.o guest.bin

        .code16
        .globl  start
start:
        cli
        xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     %ax, %ss
        mov     $0x7c00, %sp
        sti
        cld
        mov     %dl, 0x7c00 + drive - start     # where the BIOS booted from

        mov     $0x8000, %di                    # 32 KiB to write
        mov     $0x8000, %cx
        mov     $0xa5, %al
        rep stosb

        mov     $(0x7c00 + places - start), %bx
next:
        mov     (%bx), %eax
        test    %eax, %eax
        jz      off
        mov     %eax, 0x7c00 + lba - start
        mov     $(0x7c00 + packet - start), %si
        mov     0x7c00 + drive - start, %dl
        mov     $0x4300, %ax                    # extended write, without verification
        push    %bx
        int     $0x13
        pop     %bx
        add     $4, %bx
        jmp     next

off:                                            # Advanced Power Management 1.2: connect, set version, switch off
        mov     $0x5301, %ax
        xor     %bx, %bx
        int     $0x15
        mov     $0x530e, %ax
        xor     %bx, %bx
        mov     $0x0102, %cx
        int     $0x15
        mov     $0x5307, %ax
        mov     $1, %bx
        mov     $3, %cx
        int     $0x15
halt:
        hlt
        jmp     halt

places: .long   2048, 40000, 120000, 0
packet: .byte   16, 0
        .word   64
        .word   0x8000, 0
lba:    .long   0, 0
drive:  .byte   0
        .org    510
        .word   0xaa55
