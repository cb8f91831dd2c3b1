"""The negative control: one AVX2 instruction. An Atom (or its emulation) must kill it; any newer CPU prints a line."""

from __future__ import annotations

import ctypes
import mmap

VPADDD_YMM = bytes.fromhex("c5fdfec0")  # vpaddd ymm0, ymm0, ymm0
VZEROUPPER = bytes.fromhex("c5f877")
RET = bytes.fromhex("c3")


def main() -> None:
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(VPADDD_YMM + VZEROUPPER + RET)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    ctypes.CFUNCTYPE(None)(address)()
    print("  an AVX2 instruction ran")


if __name__ == "__main__":
    main()
