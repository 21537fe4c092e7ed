"""For which system and processor a binary file is."""

import struct
from pathlib import Path

ELF = {62: "x86_64", 183: "arm64"}
"""Lambda's names of e_machine, EM_X86_64 and EM_AARCH64 (elf(5))."""
MACH_O = {0x01000007: "macOS x86_64", 0x0100000C: "macOS arm64"}
"""cputype of a 64-bit Mach-O file (mach/machine.h)."""


def machine(file: Path) -> str:
    start = file.read_bytes()[:20]
    if start.startswith(b"\x7fELF"):
        return ELF[struct.unpack_from("<H", start, 18)[0]]
    if start.startswith(b"\xcf\xfa\xed\xfe"):
        return MACH_O[struct.unpack_from("<I", start, 4)[0]]
    raise AssertionError(f"{file} is not an ELF or a Mach-O file")


def machines(folder: Path) -> set[str]:
    return {machine(file) for file in folder.rglob("*.so")}
