"""Decoded pixels of a task, kept so that no image is decoded twice: on disk, or in memory where the disk buys nothing.

Images that lie encoded in files go to one sparse file in the cache folder for each (data, geometry, corruption):

    header     4096 bytes, the same for every process that may use the file
    index      16 bytes a row: 12 of the sha256 of the encoded image, 4 of the crc32 of the pixels; zeros: absent
    slots      H x W x 3 uint8 a row, as in a memory map

A row whose encoded image has another digest, or whose pixels have another checksum (a process was killed, a disk
failed), counts as absent: it is decoded and written again. So there is no lock: processes and threads that meet write
the same bytes. The file is laid out as a memory map but read with pread: a map over a file that someone truncates, or
that a full disk cannot hold, kills the process, and copying 224 x 224 pixels out of it took 0.3 to 0.4 ms, not 0.1.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import threading
import time
import zlib
from functools import cache as once
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zsrobust import cache

if TYPE_CHECKING:
    from zsrobust.geometry import Geometry
    from zsrobust.tasks.corruptions import Corruption
    from zsrobust.tasks.source import Source

MEMORY_BYTES = 256 * 2**20
"""Pixels that a task keeps in memory: the images used first; later ones are decoded each time."""
FORMAT = b"zsrobust pixels 1\n"
HEADER = 4096
ENTRY = struct.Struct("<12sI")
_GROWTH = 64 * 2**20  # bytes between two looks at how full the cache folder is
_MARK = 60.0  # seconds between two marks of a file as used


class PixelCache:
    """Pixels by row: in a file, else in memory up to ``MEMORY_BYTES``. Several threads may use it.

    The memory never evicts: over whole epochs nothing does better. Sent to another process it arrives empty.
    """

    def __init__(self) -> None:
        self._pixels: dict[int, np.ndarray] = {}
        self._bytes = 0
        self._file: PixelFile | None = None
        self._opened = False
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[PixelCache], tuple[()]]:
        return PixelCache, ()

    def get(self, row: int) -> np.ndarray | None:
        """The row's pixels, if they are in memory."""
        return self._pixels.get(row)

    def put(self, row: int, pixels: np.ndarray) -> None:
        """Keep a row's pixels in memory while there is room."""
        with self._lock:
            if row not in self._pixels and self._bytes + pixels.nbytes <= MEMORY_BYTES:
                self._pixels[row] = pixels
                self._bytes += pixels.nbytes

    def file(self, source: Source, geometry: Geometry, corruption: Corruption | None) -> PixelFile | None:
        """The file of these pixels, opened when first asked for; None where they are kept in memory."""
        if not self._opened:
            with self._lock:
                if not self._opened:
                    self._file = open_file(source, geometry, corruption)
                    self._opened = True
        return self._file


def open_file(source: Source, geometry: Geometry, corruption: Corruption | None) -> PixelFile | None:
    """The file in the cache folder for the pixels of some data.

    None without a cache folder, for data that code makes (its digest costs as much as its pixels), and where the
    geometry gives images of several sizes.
    """
    here, size = cache.folder(), geometry.output_size
    if here is None or size is None or not source.encoded or not len(source) or not hasattr(os, "pread"):
        return None
    key = hashlib.sha256(FORMAT)
    for part in (*source.identity(), repr(geometry), repr(corruption), *_makers()):
        key.update(part.encode("utf-8", "surrogateescape") + b"\x00")  # names of files need be no UTF-8
    try:
        return PixelFile(here, key.hexdigest(), len(source), (*size, 3))
    except OSError as problem:
        cache.warn_once(here, problem)
        return None


class PixelFile:
    """The file of one task's pixels.

    Args:
        here: The cache folder.
        key: 64 hexadecimal digits that stand for data and geometry.
        rows: Rows of the data.
        shape: (H, W, 3) of every image.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, here: Path, key: str, rows: int, shape: tuple[int, int, int]) -> None:
        self.path = here / "pixels" / f"{key}.pixels"
        self._here = here
        self._shape = shape
        self._slot = int(np.prod(shape))
        self._slots = HEADER + -(-rows * ENTRY.size // HEADER) * HEADER
        self._claimed = 0
        self._writable = True
        self._marked = 0.0
        self._lock = threading.Lock()
        self._handle = -1
        length = self._slots + rows * self._slot
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = _opened(self.path, f"{key} {rows} {shape}\n".encode(), length)
        cache.make_room(here, 0, growing=self.path)

    def __del__(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)

    def get(self, row: int, digest: bytes) -> np.ndarray | None:
        """(H, W, 3) uint8, read-only; None unless the row is there, whole, and of the image with this digest."""
        try:
            entry = os.pread(self._handle, ENTRY.size, HEADER + row * ENTRY.size)
            if entry[:12] != digest[:12]:
                return None
            content = os.pread(self._handle, self._slot, self._slots + row * self._slot)
        except OSError:
            return None  # the disk fails; decoding does not
        if len(content) != self._slot or entry != _entry(digest, content):
            return None
        self._mark()
        return np.frombuffer(content, dtype=np.uint8).reshape(self._shape)

    def put(self, row: int, digest: bytes, pixels: np.ndarray) -> bool:
        """Keep a row's pixels; False where they are of another shape, or there is no room."""
        if pixels.shape != self._shape:
            return False
        content = np.ascontiguousarray(pixels).data
        try:
            if not self._may_grow():
                return False
            # the index comes last: until then the row is absent
            _write(self._handle, content, self._slots + row * self._slot)
            _write(self._handle, _entry(digest, content), HEADER + row * ENTRY.size)
        except OSError as problem:
            self._writable = False
            cache.warn_once(self._here, problem)
            return False
        return True

    def _may_grow(self) -> bool:
        """Claim a slot; how full the folder is, is looked up once for many."""
        with self._lock:
            if not self._writable:
                return False
            needed = self._slot + HEADER  # the index page
            if self._claimed < needed:
                growth = max(needed, min(_GROWTH, cache.bound() // 50))
                # without a name the file was evicted: what is written now nobody finds, but it takes space
                named = os.fstat(self._handle).st_nlink > 0
                self._writable = named and cache.make_room(self._here, growth, growing=self.path)
                self._claimed = growth
            self._claimed -= self._slot
            return self._writable

    def _mark(self) -> None:
        now = time.monotonic()
        if now - self._marked > _MARK:
            self._marked = now
            with contextlib.suppress(OSError):
                os.utime(self._handle)


def _opened(path: Path, told: bytes, length: int) -> int:
    """A handle on the file of this length with this header; another file of its name is replaced.

    Raises:
        OSError: it cannot be opened or made.
    """
    header = (FORMAT + told).ljust(HEADER, b"\x00")
    for _ in range(2):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        try:
            size, there = os.fstat(handle).st_size, os.pread(handle, HEADER, 0)
            # empty or without a header: made now, perhaps by another process, which does the same
            if size in (0, length) and there in (b"", bytes(HEADER), header):
                os.ftruncate(handle, length)
                _write(handle, header, 0)
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        path.unlink(missing_ok=True)
    raise OSError(f"{path} is changed by something else")


def _write(handle: int, content: bytes | memoryview, offset: int) -> None:
    left = memoryview(content).cast("B")
    while left:
        written = os.pwrite(handle, left, offset)
        left, offset = left[written:], offset + written


def _entry(digest: bytes, content: bytes | memoryview) -> bytes:
    return ENTRY.pack(digest[:12], zlib.crc32(content, zlib.crc32(digest[:12])))


@once
def _makers() -> tuple[str, ...]:
    """What stands for the code that makes pixels out of encoded images: theirs must not be taken for other code's."""
    from zsrobust import geometry
    from zsrobust.tasks import corruptions, images

    files = [Path(str(module.__file__)) for module in (geometry, images, corruptions)]
    code = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    return code, version("pillow"), version("numpy")
