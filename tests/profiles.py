"""Small color profiles, built here: Display P3, and inks that differ from Pillow's plain CMYK."""

import struct

import numpy as np

P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)  # of sRGB and Display P3


def display_p3() -> bytes:
    white = _xyz(0.9642, 1.0, 0.8249)
    curve = b"para" + bytes(4) + struct.pack(">HH", 3, 0) + _fixed(*CURVE)
    columns = {f"{name}XYZ".encode(): _xyz(*column) for name, column in zip("rgb", P3, strict=True)}
    curves = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    return _profile(b"RGB ", b"XYZ ", {b"wtpt": white, **columns, **curves})


def inks() -> bytes:
    """Cyan, magenta, yellow and black on paper; full cyan is the Lab color (50, -30, -40)."""
    grid = np.indices((2, 2, 2, 2)).reshape(4, 16).T  # the last ink varies fastest
    lab = np.array([100.0, 0, 0]) + grid[:, :3] @ np.array([[-50, -30, -40], [-50, 70, 0], [-10, 0, 80]])
    lab[:, 0] = np.clip(lab[:, 0] * (1 - grid[:, 3]), 0, 100)
    values = np.column_stack([lab[:, 0] * 2.55, lab[:, 1:] + 128]).clip(0, 255).round().astype(np.uint8)
    same, matrix = bytes(range(256)), _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    table = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + matrix + same * 4 + values.tobytes() + same * 3
    return _profile(b"CMYK", b"Lab ", {b"wtpt": _xyz(0.9642, 1.0, 0.8249), b"A2B0": table, b"A2B1": table})


def _fixed(*numbers: float) -> bytes:
    return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))


def _xyz(*values: float) -> bytes:
    return b"XYZ " + bytes(4) + _fixed(*values)


def _profile(space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    offset, index, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        index += name + struct.pack(">II", offset + len(body), len(data))
        body += data
    kind = b"mntr" if space == b"RGB " else b"prtr"
    version = 0x04000000 if space == b"RGB " else 0x02400000
    head = struct.pack(">I4xI4s4s4s12x4s", offset + len(body), version, kind, space, connection, b"acsp")
    return (head.ljust(68, b"\0") + _fixed(0.9642, 1.0, 0.8249)).ljust(128, b"\0") + (
        struct.pack(">I", len(tags)) + index + body
    )
