"""What strangers upload, made up: every format and mode, cut short, damaged, lying about its size, too large.

All of it is drawn here from seeds; nothing is downloaded and nothing is kept in the repository.
"""

import functools
import io
import struct
import zlib
from collections.abc import Iterator
from itertools import product

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin

from dsd.files.intake import FORMATS

MODES = "1 L LA La P PA RGB RGBA RGBa RGBX CMYK YCbCr LAB HSV I I;16 I;16B F".split()
SIZE = (40, 30)
CUTS, FLIPS = 5, 8  # truncated and damaged copies of each kind
MOVING = ("GIF", "PNG", "WEBP", "TIFF", "AVIF")
NAMES = (".png", ".jpg", ".txt", ".py", "", ".gif")


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nearly nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def noise(mode: str = "RGB", size: tuple[int, int] = SIZE, seed: int = 0) -> Image.Image:
    """Smooth enough to compress, busy enough that every decoder has work to do."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 4), dtype=np.uint8), "RGBA")
    image = coarse.resize(size, Image.Resampling.BICUBIC)
    if mode.startswith("I;16"):
        grey = np.asarray(image.convert("L"), dtype=np.uint16) * 257
        return Image.frombytes(mode, size, grey.astype(">u2" if mode.endswith("B") else "<u2").tobytes())
    if mode in ("PA", "La", "LA", "RGBa"):
        alpha = {"PA": "LA", "La": "LA", "LA": "LA", "RGBa": "RGBA"}[mode]
        return image.convert("RGBA").convert(alpha).convert(mode)
    if mode == "LAB":
        return Image.merge("LAB", image.convert("RGB").split())
    return image.convert("RGB").convert(mode)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


def writable() -> Iterator[tuple[str, str, bytes]]:
    """(format, mode, file) for all that this Pillow can write."""
    Image.init()
    for kind, mode in product(sorted(Image.SAVE), MODES):
        try:
            yield kind, mode, saved(noise(mode), kind)
        except Exception:  # this format does not have this mode, or needs a program that is not here
            continue


def chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int, height: int, *more: bytes, depth: int = 8, kind: int = 0, rows: bytes = bytes(1000)
) -> bytes:
    """A PNG of this header, with nearly no pixels in it, or with those `rows`."""
    header = struct.pack(">IIBBBBB", width & 0xFFFFFFFF, height & 0xFFFFFFFF, depth, kind, 0, 0, 0)
    return b"".join(
        (b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), *more)
        + (chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    )


def black_png(width: int, height: int, *more: bytes, depth: int = 8) -> bytes:
    """A whole, valid, grey one; small on disk however large it is."""
    squeeze, parts = zlib.compressobj(1), []
    row = bytes(1 + width * depth // 8)
    parts += [squeeze.compress(row) for _ in range(height)]
    parts.append(squeeze.flush())
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    return b"".join(
        (b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), *more)
        + (chunk(b"IDAT", b"".join(parts)), chunk(b"IEND", b""))
    )


def gif(width: int, height: int) -> bytes:
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", width, height, 0, 0, 0)
        + b","
        + struct.pack("<HHHHB", 0, 0, width, height, 0)
        + b"\x02\x02\x4c\x01\x00;"
    )


def bmp(width: int, height: int, bits: int = 24) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 0, 0, 2835, 2835, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 100, 0, 0, 54) + header + bytes(100)


def webp(width: int, height: int) -> bytes:
    """An extended header that names a canvas of up to 2**24 a side, and nothing on it."""
    size = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + size
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiff(width: float, height: float, *, kind: int = 4, more: tuple = ()) -> bytes:
    """A TIFF of one strip; `kind` 4 is a whole number, 11 a float, 12 a double: sizes may then be NaN."""
    code = {3: "H", 4: "I", 11: "f", 12: "d"}[kind]
    tags = [(256, kind, width), (257, kind, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8)]
    tags += [(277, 3, 1), (278, 4, 30), (279, 4, 1200), *more]
    entries, extra, after = b"", b"", 8 + 2 + 12 * len(tags) + 4
    for tag, form, value in sorted(tags):
        data = struct.pack("<" + (code if tag in (256, 257) else "H" if form == 3 else "I"), value)
        if len(data) > 4:
            data, extra = struct.pack("<I", after + len(extra)), extra + data
        entries += struct.pack("<HHI", tag, form, 1) + data.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + extra + bytes(1200)


def jpeg(width: int, height: int) -> bytes:
    """A real one whose header has been rewritten."""
    data = bytearray(saved(noise(), "JPEG"))
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def liars() -> Iterator[tuple[str, bytes]]:
    """Headers that claim a size that is absurd, none at all, or not a number."""
    sides = [(0, 0), (0, 40), (1, 1), (1, 50_000), (50_000, 16), (15, 4000), (65_500, 65_500), (9_000, 9_000)]
    for width, height in sides:
        yield f"png {width} x {height}", png(width, height)
        yield f"gif {width} x {height}", gif(min(width, 65_535), min(height, 65_535))
        yield f"bmp {width} x {height}", bmp(width, height)
        yield f"tiff {width} x {height}", tiff(width, height)
        yield f"jpeg {width} x {height}", jpeg(min(width, 65_535), min(height, 65_535))
        if width and height:
            yield f"webp {width} x {height}", webp(width, height)
    for width, height in ((-1, 40), (-40, -30), (2**31 - 1, -(2**31)), (2**31 - 1, 2**31 - 1)):
        yield f"bmp {width} x {height}", bmp(width, height)
        yield f"png {width} x {height}", png(width, height)
    for value in (float("nan"), float("inf"), -float("inf"), 1e38, -1.0, 40.5):
        yield f"tiff float {value}", tiff(value, 30.0, kind=11)
        yield f"tiff double {value}", tiff(40.0, value, kind=12)
    for depth, kind in ((16, 0), (1, 3), (5, 2), (8, 9), (16, 6), (0, 0)):
        yield f"png depth {depth} kind {kind}", png(*SIZE, depth=depth, kind=kind)


def long_or_small() -> Iterator[tuple[str, bytes]]:
    """Honest ones of a shape that nobody expects."""
    for width, height in ((16, 16), (15, 15), (1, 1), (16, 20_000), (20_000, 16), (1, 9000)):
        yield f"black {width} x {height}", black_png(width, height)


def laden() -> Iterator[tuple[str, bytes]]:
    """More said about the image than there is image."""
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(30_000_000)))
    yield "png with 30 MB of packed text", black_png(*SIZE, text)
    yield "png with 8 MB of text", black_png(*SIZE, chunk(b"tEXt", b"Comment\0" + b"x" * 8_000_000))
    yield "png with 5,000 texts", black_png(*SIZE, *[chunk(b"tEXt", b"k%d\0v" % i) for i in range(5_000)])
    yield "png with packed text of garbage", black_png(*SIZE, chunk(b"zTXt", b"Comment\0\0garbage"))
    profile = chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(3_000_000)))
    yield "png with 3 MB of color profile", black_png(*SIZE, profile)
    yield "jpeg with 60 kB of EXIF", saved(noise(), "JPEG", exif=b"Exif\0\0" + bytes(60_000))
    yield "jpeg with 1 MB of color profile", saved(noise(), "JPEG", icc_profile=bytes(1_000_000))
    yield "jpeg with comments", saved(noise(), "JPEG", comment=b"<script>alert(1)</script>" * 2000)
    yield "webp with XMP", saved(noise(), "WEBP", xmp=b"<x:xmpmeta>" * 50_000)
    yield "tiff with a long description", saved(noise(), "TIFF", description="x" * 2_000_000)
    yield "png that claims 2**31 frames", black_png(*SIZE, chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)))


def settled() -> Iterator[tuple[str, bytes]]:
    """PNGs that claim to have been made here, with settings that nobody could have chosen."""
    huge, deep = "1" + "0" * 400, "[" * 100_000
    good = '"prompt": "a hat", "seed": 1, "steps": 2, "image_guidance": 1, "text_guidance": 1, "fit": "crop"'
    for name, text in {
        "none": "", "a list": "[1, 2]", "deep": deep, "not JSON": "{", "no keys": "{}", "null": "null",
        "a number of 400 digits": f'{{{good}, "width": 32, "height": 32, "guidance": {huge}}}',
        "a number of 5,000 digits": f'{{{good}, "width": 32, "height": 32, "guidance": {"9" * 5000}}}',
        "a size of 400 digits": f'{{{good}, "width": {huge}, "height": 32, "guidance": null}}',
        "NaN": f'{{{good}, "width": NaN, "height": 32, "guidance": NaN}}',
        "infinity": f'{{{good}, "width": 32, "height": -Infinity, "guidance": 1e999}}',
        "a size of text": f'{{{good}, "width": "<b>32</b>", "height": [], "guidance": {{}}}}',
        "a prompt that is half a character": f'{{{good.replace("a hat", "a hat" + chr(92) + "ud800")}, '
        '"width": 32, "height": 32, "guidance": null}',
        "a prompt of markup": f'{{{good.replace("a hat", "<img src=x onerror=alert(1)>")}, '
        '"width": 32, "height": 32, "guidance": null}',
    }.items():  # fmt: skip
        note = PngImagePlugin.PngInfo()
        note.add_itxt("dsd", text)
        note.add_text("dsd-reference", "AAAA")
        yield f"settings: {name}", saved(noise(), "PNG", pnginfo=note)


def turned() -> Iterator[tuple[str, bytes]]:
    """Orientations, real ones and others, and EXIF that is damaged."""
    for value in (*range(10), 255, 65_535):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = value
        yield f"orientation {value}", saved(noise(), "JPEG", exif=exif)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    whole = exif.tobytes()
    for kind in ("JPEG", "PNG", "WEBP", "AVIF", "TIFF"):
        yield f"orientation 6 in {kind}", saved(noise(), kind, exif=exif)
    rng = np.random.default_rng(6)
    for i in range(30):
        damaged = bytearray(whole)
        for place in rng.integers(6, len(whole), 1 + i % 4):
            damaged[place] = rng.integers(256)
        kind = ("JPEG", "PNG", "WEBP")[i % 3]
        yield f"damaged EXIF {i} in {kind}", saved(noise(), kind, exif=bytes(damaged))


def moving() -> Iterator[tuple[str, bytes]]:
    """Animations."""
    frames = [noise(seed=i) for i in range(4)]
    for kind in MOVING:
        yield f"{kind} of 4 frames", saved(frames[0], kind, save_all=True, append_images=frames[1:])
    specks = [Image.new("L", (16, 16), i % 2 * 255) for i in range(1000)]
    yield "GIF of 1,000 frames", saved(specks[0], "GIF", save_all=True, append_images=specks[1:])


def palettes() -> Iterator[tuple[str, bytes]]:
    """Transparency in its many spellings."""
    coded = noise().quantize(8)
    for name, value in (("one", 3), ("bytes", bytes(range(8))), ("out of range", 255)):
        yield f"palette, transparent {name}", saved(coded, "PNG", transparency=value)
    yield "gif, transparent", saved(coded, "GIF", transparency=2)
    yield "grey, transparent", saved(noise("L"), "PNG", transparency=7)
    yield "RGB, transparent", saved(noise(), "PNG", transparency=(1, 2, 3))
    yield "palette too short", png(*SIZE, chunk(b"PLTE", b"\1\2\3"), kind=3, rows=b"\x07" * 41 * 30)
    yield "no palette", png(*SIZE, kind=3, rows=b"\x07" * 41 * 30)
    yield "transparency too long", black_png(*SIZE, chunk(b"tRNS", bytes(600)))


def wounded() -> Iterator[tuple[str, bytes]]:
    """Every readable kind cut short and with bytes turned, at seeded places."""
    rng = np.random.default_rng(5)
    animated = {"save_all": True, "append_images": [noise(seed=1), noise(seed=2)]}
    kinds = [(kind, {}) for kind in FORMATS] + [(kind, animated) for kind in MOVING]
    for kind, options in kinds:
        whole = saved(noise(), kind, **options)
        name = f"{kind}{' moving' * bool(options)}"
        for place in rng.integers(1, len(whole), CUTS):
            yield f"{name} cut at {place}", whole[:place]
        for i in range(FLIPS):
            damaged = bytearray(whole)
            # The header is where a few bytes do the most harm.
            reach = len(whole) if i % 2 else min(len(whole), 120)
            for place in rng.integers(0, reach, 1 + i):
                damaged[place] = rng.integers(256)
            yield f"{name} damaged {i}", bytes(damaged)


def junk() -> Iterator[tuple[str, bytes]]:
    """Not images at all."""
    yield "nothing", b""
    yield "noise", np.random.default_rng(1).bytes(5000)
    yield "html", b"<!doctype html><script>alert(1)</script>"
    yield "svg", b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"
    yield "zip", b"PK\x03\x04" + bytes(100)
    yield "pickle", b"\x80\x04\x95\x1f\x00\x00\x00cos\nsystem\n"
    yield "postscript that runs", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 30\n(/etc/passwd) run\n"
    yield "a PNG signature alone", b"\x89PNG\r\n\x1a\n"


def mislabelled() -> Iterator[tuple[str, bytes, str]]:
    """Whole images under another kind's name; what counts is what they are."""
    for i, kind in enumerate(FORMATS):
        yield f"{kind} under another name", saved(noise(), kind), NAMES[i % len(NAMES)]


@functools.cache
def corpus() -> dict[str, tuple[str, bytes]]:
    """Name -> (extension, file)."""
    found = {f"{kind} {mode}": (f".{kind.lower()}", data) for kind, mode, data in writable()}
    found |= {name: (extension, data) for name, data, extension in mislabelled()}
    for part in (liars, long_or_small, laden, settled, turned, moving, palettes, wounded, junk):
        found |= {name: (".png", data) for name, data in part()}
    return found
