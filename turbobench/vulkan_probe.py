"""Asks the Vulkan loader for its devices, as JSON on stdout. Run as a script of its own: a broken driver may crash it.

Each device: index, type (VkPhysicalDeviceType), name, driver, memory_mib of its device-local heaps, uuid. Exit code 3
and a line on stderr where there is no loader, or no driver that it can start.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import struct
import sys

_API_1_2 = 1 << 22 | 2 << 12
_HEAPS = 4 + 32 * 8  # where VkPhysicalDeviceMemoryProperties has its number of heaps
_ROOM = 4096  # more than any of the structures takes


class _Info(ctypes.Structure):
    """VkApplicationInfo."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("next", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("version", ctypes.c_uint32),
        ("engine", ctypes.c_char_p),
        ("engine_version", ctypes.c_uint32),
        ("api", ctypes.c_uint32),
    )


class _Create(ctypes.Structure):
    """VkInstanceCreateInfo."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("next", ctypes.c_void_p),
        ("flags", ctypes.c_uint32),
        ("info", ctypes.POINTER(_Info)),
        ("n_layers", ctypes.c_uint32),
        ("layers", ctypes.c_void_p),
        ("n_extensions", ctypes.c_uint32),
        ("extensions", ctypes.c_void_p),
    )


def _text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode(errors="replace").strip()


def _loader() -> ctypes.CDLL | None:
    usual = {"win32": "vulkan-1.dll", "darwin": "libvulkan.1.dylib"}.get(sys.platform, "libvulkan.so.1")
    for name in (usual, ctypes.util.find_library("vulkan")):
        try:
            return ctypes.CDLL(name or "no such library")
        except OSError:
            continue
    return None


def _fail(reason: str) -> int:
    sys.stderr.write(reason + "\n")
    return 3


def _device(vk: ctypes.CDLL, index: int, handle: int) -> dict[str, object]:
    driver = ctypes.create_string_buffer(struct.pack("<I4xQ", 1000196000, 0), _ROOM)
    ids = ctypes.create_string_buffer(struct.pack("<I4xQ", 1000071004, ctypes.addressof(driver)), _ROOM)
    main = ctypes.create_string_buffer(struct.pack("<I4xQ", 1000059001, ctypes.addressof(ids)), _ROOM)
    vk.vkGetPhysicalDeviceProperties2(ctypes.c_void_p(handle), main)
    memory = ctypes.create_string_buffer(_ROOM)
    vk.vkGetPhysicalDeviceMemoryProperties(ctypes.c_void_p(handle), memory)
    (n_heaps,) = struct.unpack_from("<I", memory, _HEAPS)
    heaps = [struct.unpack_from("<QI", memory, _HEAPS + 4 + 16 * i) for i in range(n_heaps)]
    words = [_text(driver.raw[20 + 256 * i : 20 + 256 * (i + 1)]) for i in range(2)]
    return {
        "index": index,
        "type": struct.unpack_from("<I", main, 16 + 16)[0],
        "name": _text(main.raw[36 : 36 + 256]),
        "driver": " ".join(word for word in words if word),
        "memory_mib": sum(size for size, flags in heaps if flags & 1) >> 20,
        "uuid": ids.raw[16:32].hex(),
    }


def main() -> int:
    vk = _loader()
    if vk is None:
        return _fail("there is no Vulkan loader (libvulkan)")
    info = _Info(type=0, api=_API_1_2)
    create = _Create(type=1, info=ctypes.pointer(info))
    instance = ctypes.c_void_p()
    if (error := vk.vkCreateInstance(ctypes.byref(create), None, ctypes.byref(instance))) != 0:
        return _fail(f"the Vulkan loader finds no driver that works (vkCreateInstance: {error})")
    count = ctypes.c_uint32()
    vk.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), None)
    handles = (ctypes.c_void_p * count.value)()
    vk.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), handles)
    found = [_device(vk, i, handle) for i, handle in enumerate(handles) if handle is not None]
    vk.vkDestroyInstance(instance, None)
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
