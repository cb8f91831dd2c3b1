"""The negative control: one dot product of ARMv8.2. A Cortex-A57 or A53 must kill it; a newer CPU prints a line.

What the processor says it has (HWCAP) is printed first: runtimes choose their kernels by it.
"""

from __future__ import annotations

import ctypes
import mmap

UDOT = bytes.fromhex("0094806e")  # udot v0.4s, v0.16b, v0.16b
RET = bytes.fromhex("c0035fd6")
AT_HWCAP, ASIMDDP, SVE = 16, 1 << 20, 1 << 22


def main() -> None:
    libc = ctypes.CDLL(None)
    libc.getauxval.restype, libc.getauxval.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    has = libc.getauxval(AT_HWCAP)
    print(f"  HWCAP {has:#x}: dot product {bool(has & ASIMDDP)}, SVE {bool(has & SVE)}", flush=True)
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(UDOT + RET)
    ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
    print("  a dot product ran", flush=True)


if __name__ == "__main__":
    main()
