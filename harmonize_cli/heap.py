"""Memory between steps: what the C library does with the blocks that a training step frees."""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST = 32 * 2**20  # glibc takes no higher limit


def keep_freed_memory() -> bool:
    """Keep freed blocks for the next step instead of handing them back to the system; False where not glibc.

    Steps free and ask for the same tensors again and again. By default glibc returns what lies at the end of
    the heap, and the next step gets it back page by page, each cleared by the kernel first. The process keeps
    its peak of memory from here on.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    never = -1
    return bool(mallopt(_TRIM_THRESHOLD, never) and mallopt(_MMAP_THRESHOLD, _LARGEST))
