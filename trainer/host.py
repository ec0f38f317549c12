"""What has to be set before torch is imported: reproducible libraries, and a CPU that is shared well."""

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
LARGEST_HEAP_BLOCK = 32 << 20  # glibc takes no more for M_MMAP_THRESHOLD


def prepare() -> None:
    """Set up this process for torch. Values that a user has put into the environment stay."""
    # Without these two, equal runs may differ in the last bit (cuBLAS work spaces; MKL's choice of threads).
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("MKL_DYNAMIC", "FALSE")
    # libgomp's threads spin while they wait. On a core that somebody else wants too, that made a step 10 to 20 times slower.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # Each step allocates the same tensors: kept in the heap, they need not be mapped and zeroed again by the kernel.
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, LARGEST_HEAP_BLOCK)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
