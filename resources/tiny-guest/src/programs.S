// Linux programs without libraries, by which a shell in a guest reaches an I/O port: a stock kernel
// may have no /dev/port. As root only (ioperm). Each takes a value (decimal, 0 to 255).

// EBX = the number in argv[1]; 0 without one.
.macro argument
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
2:
.endm

// Writes BL to a port, if the process may.
.macro tell port
    mov eax, 173                    // ioperm(port, 1, 1)
    mov edi, \port
    mov esi, 1
    mov edx, 1
    syscall
    test eax, eax
    jnz 3f
    mov eax, ebx
    mov edx, \port
    out dx, al
3:
.endm

.macro exit status
    mov eax, 60
    mov edi, \status
    syscall
.endm

    .section .rodata.programs, "a"

// `debug-exit VALUE` ends its machine through the debug exit port with this value (0 to 127), which
// becomes the exit status (VALUE << 1) | 1. Without such a port in the machine it ends with status 1.
    .balign 16
    .globl aerostat_debug_exit_start
    .globl aerostat_debug_exit_end
aerostat_debug_exit_start:
    argument
    tell 0xf4
    exit 1                          // still here
aerostat_debug_exit_end:

// `boot-timer VALUE` tells the boot timer how far the boot has come, and QEMU's debug console too.
    .balign 16
    .globl aerostat_boot_timer_start
    .globl aerostat_boot_timer_end
aerostat_boot_timer_start:
    argument
    tell 0xf8
    tell 0xe9
    exit 0
aerostat_boot_timer_end:
    .text
