"""Reads memory by a process's number."""

import ctypes
import os


class Part(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


source, target = ctypes.create_string_buffer(b"secret"), ctypes.create_string_buffer(6)
there, here = Part(ctypes.addressof(source), 6), Part(ctypes.addressof(target), 6)
read = ctypes.CDLL(None).process_vm_readv(os.getpid(), ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
raise SystemExit(42 if read == 6 else 1)
