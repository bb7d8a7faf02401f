"""Image files that are broken in every way that comes to mind, the same ones for the same seed."""

import random
import struct
import zlib
from collections.abc import Callable, Iterator

from PIL import Image

from tests.image_files import file_of

MODES = ("RGB", "L", "RGBA", "P", "1", "CMYK", "I;16", "LA")
EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


def seeds(formats: tuple[str, ...]) -> list[bytes]:
    """Return a good file of each format in each mode that it can hold, plain and animated."""
    found = []
    for name in formats:
        for mode in MODES:
            image = _noise(mode)
            for options in ({}, {"save_all": True, "append_images": [_noise(mode)]}):
                try:
                    found.append(file_of(image, name, **options))
                except (OSError, KeyError, ValueError, TypeError):
                    continue  # this format holds no such mode, or no second frame
    return sorted(set(found))


def _noise(mode: str) -> Image.Image:
    rng = random.Random(mode)
    rgb = Image.frombytes("RGB", (24, 20), rng.randbytes(24 * 20 * 3))
    return rgb.convert("L").convert("I;16") if mode == "I;16" else rgb.convert(mode)


def truncated(raw: bytearray, rng: random.Random) -> bytes:
    return bytes(raw[: rng.randrange(len(raw))])


def flipped(raw: bytearray, rng: random.Random) -> bytes:
    for _ in range(rng.randint(1, 20)):
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    return bytes(raw)


def with_wrong_lengths(raw: bytearray, rng: random.Random) -> bytes:
    for _ in range(rng.randint(1, 3)):
        width = rng.choice((1, 2, 4))
        value = rng.choice(EXTREMES) & ((1 << 8 * width) - 1)
        at = rng.randrange(min(len(raw), 200))
        raw[at : at + width] = value.to_bytes(width, rng.choice(("big", "little")))
    return bytes(raw)


def repeated(raw: bytearray, rng: random.Random) -> bytes:
    start, end = sorted(rng.randrange(len(raw)) for _ in range(2))
    return bytes(raw[:end] + raw[start:end] * rng.randint(1, 4) + raw[end:])


def shuffled(raw: bytearray, rng: random.Random) -> bytes:
    cut = sorted(rng.randrange(len(raw)) for _ in range(2))
    return bytes(raw[: cut[0]] + raw[cut[1] :] + raw[cut[0] : cut[1]])


MUTATIONS: tuple[Callable[[bytearray, random.Random], bytes], ...] = (
    truncated,
    flipped,
    with_wrong_lengths,
    repeated,
    shuffled,
)


def mutants(files: list[bytes], count: int, seed: int) -> Iterator[bytes]:
    """Give broken files; one in six is the head of one file before the tail of another."""
    rng = random.Random(seed)
    for _ in range(count):
        raw, other = rng.choice(files), rng.choice(files)
        if rng.random() < 1 / 6:
            yield raw[: rng.randrange(len(raw))] + other[rng.randrange(len(other)) :]
        else:
            yield rng.choice(MUTATIONS)(bytearray(raw), rng)


def _flat(image_format: str) -> bytes:
    return file_of(Image.new("RGB", (500, 500)), image_format)


def _scaled(raw: bytes, mark: bytes, after: int, form: str) -> bytes:
    """Write sizes of 60,000 where a mark is found."""
    numbers = (60_000,) * (len(form) - 1)
    return _patched(raw, raw.index(mark) + after, struct.pack(form, *numbers))


def _patched(raw: bytes, at: int, content: bytes) -> bytes:
    return raw[:at] + content + raw[at + len(content) :]


def icon_of(image: bytes) -> bytes:
    """Return an ICO that says 16x16 of whatever image is in it."""
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(image), 22)
    return struct.pack("<HHH", 0, 1, 1) + entry + image


def png_of_chunks(count: int) -> bytes:
    """Return a PNG with empty chunks of a kind that nobody knows."""
    return _png(8, 8, _chunk(b"abCd", b"") * count)


def png_of_metadata(*chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG with chunks, by name, before its pixels and again behind them."""
    metadata = b"".join(_chunk(name, content) for name, content in chunks)
    end = _chunk(b"IEND", b"")
    return _png(16, 16, metadata).removesuffix(end) + metadata + end


def jpeg_of_scans(side: int, count: int) -> bytes:
    """Return a flat progressive JPEG: one scan of the means, the others of nothing."""
    blocks = (side // 8) ** 2
    means = bytes(blocks // 8)  # a bit each
    runs = -(-blocks // 32767)  # of up to 32,767 blocks, 15 bits each: 0, and 14 times 1
    nothing = int(("0" + "1" * 14) * runs + "1" * (-15 * runs % 8), 2)
    coded = nothing.to_bytes(-(-15 * runs // 8), "big").replace(b"\xff", b"\xff\0")
    tables = b"\0" + b"\1" * 64, bytes([0, 1, *[0] * 15, 0]), bytes([16, 1, *[0] * 15, 0xE0])
    return b"".join(
        [
            b"\xff\xd8",
            _segment(0xDB, tables[0]),
            _segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + b"\1\x11\0"),
            _segment(0xC4, tables[1]),
            _segment(0xC4, tables[2]),
            _segment(0xDA, b"\1\1\0\0\0\0") + means,
            (_segment(0xDA, b"\1\1\0\1\x3f\0") + coded) * (count - 1),
            b"\xff\xd9",
        ]
    )


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


# Small files that would be huge, or take long.
BOMBS: dict[str, Callable[[], bytes]] = {
    "png-pixels": lambda: _png(2**31 - 1, 2**31 - 1),
    "png-row": lambda: _png(2**31 - 1, 1),
    "png-text": lambda: _png(8, 8, _chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8), 9))),
    "png-profile": lambda: _png(8, 8, _chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(10**8), 9))),
    "png-long": lambda: file_of(Image.new("1", (200_000, 3))),
    "png-flat": lambda: file_of(Image.new("1", (20_000, 20_000))),
    "gif-canvas": lambda: _patched(
        file_of(Image.new("P", (8, 8)), "GIF"), 6, struct.pack("<HH", 65535, 65535)
    ),
    "png-chunks": lambda: png_of_chunks(80_000),
    "ico-png": lambda: icon_of(file_of(Image.new("1", (20_000, 20_000)))),
    "ico-pixels": lambda: icon_of(_png(2**31 - 1, 2**31 - 1)),
    "ico-bmp": lambda: icon_of(
        struct.pack("<IiiHHIIiiII", 40, 30_000, 60_000, 1, 32, 0, 0, 0, 0, 0, 0) + bytes(1000)
    ),
    "jpeg-scans": lambda: jpeg_of_scans(4096, 1000),
    "jpeg-pixels": lambda: jpeg_of_scans(65528, 2),
    "jpeg-fill": lambda: b"\xff\xd8" + b"\xff" * 400_000 + jpeg_of_scans(8, 2)[2:],
    "gif-comments": lambda: b"GIF89a" + bytes(7) + b"!\xfe" + b"\1a" * 500_000 + b"\0;",
    "ppm-comment": lambda: b"P6 #" + b"a" * 500_000 + b"\n8 8 255\n" + bytes(192),
    "jp2-pixels": lambda: _scaled(_flat("JPEG2000"), b"ihdr", 4, ">II"),
    "jp2-codestream": lambda: _scaled(_flat("JPEG2000"), b"\xff\x51", 6, ">II"),
    "avif-pixels": lambda: _scaled(_flat("AVIF"), b"ispe", 8, ">II"),
    "webp-canvas": lambda: (
        b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0" + b"\xff\xff\xff" * 2 + bytes(8)
    ),
    "tiff-pixels": lambda: _flat("TIFF").replace(struct.pack("<I", 500), struct.pack("<I", 60_000)),
    "bmp-pixels": lambda: _patched(
        file_of(Image.new("RGB", (8, 8)), "BMP"), 18, struct.pack("<ii", 2**31 - 1, 2**31 - 1)
    ),
    "ppm-pixels": lambda: b"P6 4000000000 4000000000 255\n",
    "ppm-negative": lambda: b"P6 -5 -5 255\n" + bytes(75),
    "tga-pixels": lambda: b"\0\0\2" + bytes(9) + struct.pack("<HHBB", 65535, 65535, 24, 0),
    "qoi-pixels": lambda: b"qoif" + struct.pack(">IIBB", 2**31, 2**31, 3, 0),
    "tiff-lzw": lambda: file_of(Image.new("L", (12_000, 12_000)), "TIFF", compression="tiff_lzw"),
    "webp-lossless": lambda: file_of(Image.new("L", (12_000, 12_000)), "WEBP", lossless=True),
}


def _png(width: int, height: int, *extra: bytes) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = _chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + pixels + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def resident_mb() -> float:
    """Return the resident memory of this process."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096 / 1e6
