// The way from a PVH entry to the guest behind it, which wants to be entered as a 64-bit Linux kernel
// is: page tables for the first 4 GiB, long mode, RSI = boot_params.
//
// Entered in 32-bit protected mode without paging, EBX = hvm_start_info (Xen's PVH boot protocol),
// at LOAD_ADDRESS. Of boot_params the guest reads one field, the address of its initrd; the first
// field of the module list's first entry is just that.

    .set LOAD, 0x100000
    .set TABLES, 0x110000                   // PML4, PDPT, four page directories

    .section .rodata.tiny_guest_pvh, "a"
    .balign 16
    .globl aerostat_tiny_guest_pvh_start
    .globl aerostat_tiny_guest_pvh_end
    .code32
aerostat_tiny_guest_pvh_start:
    mov esi, dword ptr [ebx + 16]           // modlist_paddr
    sub esi, 0x218                          // boot_params.hdr.ramdisk_image

    mov edi, TABLES
    mov ecx, 2048
    xor eax, eax
1:  mov dword ptr [edi], eax                // PML4 and PDPT: empty
    add edi, 4
    dec ecx
    jnz 1b
    mov edi, TABLES
    mov eax, TABLES + 0x1003                // present, writable
    mov dword ptr [edi], eax
    mov edi, TABLES + 0x1000
    mov ecx, 4
2:  add eax, 0x1000
    mov dword ptr [edi], eax
    add edi, 8
    dec ecx
    jnz 2b
    mov edi, TABLES + 0x2000
    mov ecx, 2048
    mov eax, 0x83                           // present, writable, 2 MiB
    xor edx, edx
3:  mov dword ptr [edi], eax
    mov dword ptr [edi + 4], edx
    add edi, 8
    add eax, 0x200000
    dec ecx
    jnz 3b

    mov eax, TABLES
    mov cr3, eax
    mov eax, cr4
    or eax, 0x20                            // PAE
    mov cr4, eax
    mov ecx, 0xc0000080                     // EFER
    rdmsr
    or eax, 0x100                           // LME
    wrmsr
    .byte 0xb8                              // mov eax, its address
    .long LOAD + (6f - aerostat_tiny_guest_pvh_start)
    lgdt [eax]
    mov eax, cr0
    or eax, 0x80000001                      // PG, PE
    mov cr0, eax
    .byte 0xea                              // jmp 8:4f
    .long LOAD + (4f - aerostat_tiny_guest_pvh_start)
    .word 8

    .balign 8
5:  .quad 0
    .quad 0x00af9a000000ffff                // 64-bit code
6:  .word 15
    .long LOAD + (5b - aerostat_tiny_guest_pvh_start)

    .code64
4:  mov esi, esi                            // the upper half was undefined
    .balign 16, 0x90
aerostat_tiny_guest_pvh_end:
    .text
