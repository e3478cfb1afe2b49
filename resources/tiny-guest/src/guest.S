// The bare-metal guest: an interpreter for the script that arrives as its initrd.
//
// Entered as a 64-bit Linux kernel is (Linux boot protocol, section "64-bit Boot Protocol"):
// long mode, paging on, RSI = boot_params. Position independent, general registers only, no
// stack: it runs where every instruction goes through an emulator.
//
// An operation is five little-endian 64-bit words: opcode, a, b, c, d (see `script.rs`).
//   r12 = next operation   r13 = start of the script   rdi, rsi, rcx, r8 = a, b, c, d

    .section .rodata.tiny_guest, "a"
    .balign 256
    .globl aerostat_tiny_guest_start
    .globl aerostat_tiny_guest_end
aerostat_tiny_guest_start:
    mov r13d, dword ptr [rsi + 0x218]       // boot_params.hdr.ramdisk_image
    mov r12, r13

20: // next operation
    mov rax, [r12]
    mov rdi, [r12 + 8]
    mov rsi, [r12 + 16]
    mov rcx, [r12 + 24]
    mov r8,  [r12 + 32]
    add r12, 40
    cmp eax, 1
    je 31f
    cmp eax, 2
    je 32f
    cmp eax, 3
    je 33f
    cmp eax, 4
    je 34f
    cmp eax, 5
    je 35f
    cmp eax, 6
    je 36f
    cmp eax, 7
    je 37f
    cmp eax, 8
    je 38f
    cmp eax, 9
    je 39f
    cmp eax, 10
    je 40f
    cmp eax, 11
    je 41f
    cmp eax, 12
    je 42f
    cmp eax, 13
    je 43f
    cmp eax, 14
    je 44f
    cmp eax, 15
    je 45f
    cmp eax, 16
    je 46f
    cmp eax, 17
    je 47f
    cmp eax, 18
    je 48f
    cmp eax, 19
    je 49f
    cmp eax, 20
    je 50f

30: // 0 and unknown: halt for ever
    cli
    hlt
    jmp 30b

31: // out8: port a, value b
    mov edx, edi
    mov eax, esi
    out dx, al
    jmp 20b

32: // store: address a, value b, width c bytes
    cmp ecx, 4
    je 3f
    cmp ecx, 8
    je 4f
    cmp ecx, 2
    je 2f
    mov byte ptr [rdi], sil
    jmp 20b
2:  mov word ptr [rdi], si
    jmp 20b
3:  mov dword ptr [rdi], esi
    jmp 20b
4:  mov [rdi], rsi
    jmp 20b

33: // print: the value at address a, width c bytes, as 16 hexadecimal digits and a line feed
    xor ebx, ebx
    cmp ecx, 4
    je 3f
    cmp ecx, 8
    je 4f
    cmp ecx, 2
    je 2f
    mov bl, byte ptr [rdi]
    jmp 21f
2:  mov bx, word ptr [rdi]
    jmp 21f
3:  mov ebx, dword ptr [rdi]
    jmp 21f
4:  mov rbx, [rdi]
21: // print rbx
    mov edx, 0x3f8
    mov r9d, 16
22: rol rbx, 4
    mov eax, ebx
    and eax, 15
    cmp eax, 10
    jb 23f
    add eax, 'a' - 10 - '0'
23: add eax, '0'
    out dx, al
    dec r9d
    jnz 22b
    mov al, 10
    out dx, al
    jmp 20b

34: // wait: until the 32-bit value at address a, masked with b, equals c
    mov eax, dword ptr [rdi]
    and eax, esi
    cmp eax, ecx
    jne 34b
    jmp 20b

35: // fill: from address a, b times, every c bytes, the 64-bit value d
    test rsi, rsi
    jz 20b
    mov [rdi], r8
    add rdi, rcx
    dec rsi
    jmp 35b

36: // numbers: at address a, b 32-bit numbers from c in steps of d
    test rsi, rsi
    jz 20b
    mov dword ptr [rdi], ecx
    add rdi, 4
    add ecx, r8d
    dec rsi
    jmp 36b

37: // collect: print the bitwise or of b 64-bit values from address a, every c bytes
    xor ebx, ebx
5:  test rsi, rsi
    jz 21b
    or rbx, [rdi]
    add rdi, rcx
    dec rsi
    jmp 5b

38: // add16: to the 16-bit value at address a, b
    lock add word ptr [rdi], si
    jmp 20b

39: // jump: to operation a
    imul r12, rdi, 40
    add r12, r13
    jmp 20b

40: // repeat: decrement the 32-bit value at address a; to operation b unless it is 0
    dec dword ptr [rdi]
    jz 20b
    mov rdi, rsi
    jmp 39b

41: // copy32: the 32-bit value at address b to address a
    mov eax, dword ptr [rsi]
    mov dword ptr [rdi], eax
    jmp 20b

42: // wait for a byte on the serial port and echo it
    mov edx, 0x3fd
    in al, dx
    test al, 1
    jz 42b
    mov edx, 0x3f8
    in al, dx
    out dx, al
    jmp 20b

43: // triple fault: no interrupt table, then an interrupt
    mov edi, 0x1000
    mov qword ptr [rdi], 0
    mov qword ptr [rdi + 8], 0
    lidt [rdi]
    ud2
    jmp 30b

44: // execute: go on at address a
    jmp rdi

45: // load_each: from address a, b times, at each byte, c bytes
    test rsi, rsi
    jz 20b
    cmp ecx, 4
    je 3f
    cmp ecx, 8
    je 4f
    cmp ecx, 2
    je 2f
    mov al, byte ptr [rdi]
    jmp 5f
2:  mov ax, word ptr [rdi]
    jmp 5f
3:  mov eax, dword ptr [rdi]
    jmp 5f
4:  mov rax, [rdi]
5:  inc rdi
    dec rsi
    jmp 45b

46: // store_each: from address a, b times, at each byte, the low c bytes of d
    test rsi, rsi
    jz 20b
    cmp ecx, 4
    je 3f
    cmp ecx, 8
    je 4f
    cmp ecx, 2
    je 2f
    mov byte ptr [rdi], r8b
    jmp 5f
2:  mov word ptr [rdi], r8w
    jmp 5f
3:  mov dword ptr [rdi], r8d
    jmp 5f
4:  mov [rdi], r8
5:  inc rdi
    dec rsi
    jmp 46b

47: // others: what other CPUs start with goes to 0x4000, and they go on with operation a
    imul rsi, rdi, 40
    add rsi, r13
    mov edi, 0x4000
    lea rdx, [rip + 60f]
    lea rcx, [rip + 61f]
8:  mov al, byte ptr [rdx]
    mov byte ptr [rdi], al
    inc rdx
    inc rdi
    cmp rdx, rcx
    jne 8b
    mov edi, 0x4000
    mov rax, cr3
    mov [rdi + 0xc0], rax
    mov [rdi + 0xc8], r13
    mov [rdi + 0xd0], rsi
    lea rax, [rip + 20b]
    mov [rdi + 0xd8], rax
    jmp 20b

48: // outs: to port a, b times, the next byte from address c, with one instruction
    mov edx, edi
    mov rax, rsi
    mov rsi, rcx
    mov rcx, rax
    cld
    rep outsb
    jmp 20b

49: // ins: from port a, b times, a byte to the next address from c, with one instruction
    mov edx, edi
    mov rdi, rcx
    mov rcx, rsi
    cld
    rep insb
    jmp 20b

50: // polled: b bytes from address a to the serial port, each once it takes one
    test rsi, rsi
    jz 20b
    mov edx, 0x3fd
6:  in al, dx
    test al, 0x20
    jz 6b
    mov al, byte ptr [rdi]
    mov edx, 0x3f8
    out dx, al
    inc rdi
    dec rsi
    jmp 50b

// From the start-up IPI, in real mode at 0x4000, to where this CPU's script begins. What the first
// CPU left behind it: CR3 at 0x40c0, r13, r12, where the interpreter is.
    .balign 256
60: .code16
    cli
    lgdt [0x4040]
    mov eax, 0x20                           // CR4: PAE
    mov cr4, eax
    mov eax, dword ptr [0x40c0]
    mov cr3, eax
    mov ecx, 0xc0000080                     // EFER: LME
    rdmsr
    or eax, 0x100
    wrmsr
    mov eax, 0x80000011                     // CR0: PG, ET, PE
    mov cr0, eax
    .byte 0x66, 0xea                        // far jump to the 64-bit code segment
    .long 0x4080
    .word 8
    .balign 64
    .word 23                                // at 0x4040: the table's length and address, and it
    .long 0x4048
    .word 0
    .quad 0
    .quad 0x00af9b000000ffff                // 64-bit code
    .quad 0x00cf93000000ffff                // data
    .balign 64
    .code64                                 // at 0x4080
    mov eax, 16
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov edi, 0x4000
    mov r13, [rdi + 0xc8]
    mov r12, [rdi + 0xd0]
    jmp qword ptr [rdi + 0xd8]
61:
aerostat_tiny_guest_end:
    .text
