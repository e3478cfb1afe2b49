// A Linux program, `debug-exit VALUE`: ends its machine through the debug exit port 0xf4 with
// this value (decimal, 0 to 127), which becomes the exit status (VALUE << 1) | 1.
//
// A stock kernel may have no /dev/port, and a shell no other way to a port. As root only
// (ioperm). Without such a port in the machine it ends with status 1.

    .section .rodata.debug_exit, "a"
    .balign 16
    .globl aerostat_debug_exit_start
    .globl aerostat_debug_exit_end
aerostat_debug_exit_start:
    xor ebx, ebx
    mov rsi, [rsp + 16]             // argv[1], or NULL
    test rsi, rsi
    jz 2f
1:  movzx eax, byte ptr [rsi]       // decimal digits up to the NUL
    inc rsi
    sub eax, '0'
    cmp eax, 9
    ja 2f
    imul ebx, ebx, 10
    add ebx, eax
    jmp 1b
2:  mov eax, 173                    // ioperm(0xf4, 4, 1)
    mov edi, 0xf4
    mov esi, 4
    mov edx, 1
    syscall
    test eax, eax
    jnz 3f
    mov eax, ebx
    mov edx, 0xf4
    out dx, al
3:  mov eax, 60                     // exit(1): still here
    mov edi, 1
    syscall
aerostat_debug_exit_end:
    .text
