"""What the bytes of a picture say before it is decoded."""

import struct
import zlib


def claimed_size(data: bytes, form: str) -> tuple[int, int]:
    """(height, width) of a picture from its header; (0, 0) where that does not say.

    WebP is not asked: its format ends at 16,383 pixels a side.
    """
    if form == "PNG" and len(data) >= 24:
        width, height = struct.unpack_from(">II", data, 16)
        return height, width
    if form == "BMP" and len(data) >= 26:
        core = data[14] == 12
        width, height = struct.unpack_from("<HH" if core else "<ii", data, 18)
        return abs(height), abs(width)
    if form == "JPEG":
        at = 2
        while at + 9 <= len(data) and data[at] == 0xFF:
            marker = data[at + 1]
            if marker == 0xFF:
                at += 1
            elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
                height, width = struct.unpack_from(">HH", data, at + 5)
                return height, width
            else:
                at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return 0, 0


def keep_essential_png(data: bytes) -> bytes:
    """A PNG's critical chunks and its EXIF: libpng writes to stderr about faults in any other, and changes no pixel.

    Raises ValueError, with what is wrong, for one that ends too soon or has changed.
    """
    kept, at, name = [data[:8]], 8, b""
    while name != b"IEND":
        end = at + 12 + int.from_bytes(data[at : at + 4])
        name = data[at + 4 : at + 8]
        if end > len(data):
            raise ValueError("that is cut short")
        if name[:1].isupper() or name == b"eXIf":
            if zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end]):
                raise ValueError("with wrong checksums")
            kept.append(data[at:end])
        at = end
    return b"".join(kept)
