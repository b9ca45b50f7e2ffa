"""Ways of damaging files: bytes, JSON values, tensors, pictures and what lies at a path. All draw
from a seeded generator."""

from __future__ import annotations

import copy
import json
import os
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Place = tuple[Any, ...]
"""Keys and indices that lead to a value of a JSON document."""

NUMBERS: tuple[Any, ...] = (
    float("nan"),
    float("inf"),
    float("-inf"),
    -1,
    -(10**9),
    10**9,
    10**18,
    2**63,
    10**400,
    -0.5,
    1e308,
)
"""Out of every range."""
SIZES: tuple[Any, ...] = (10**9, 10**12, 2**31, 2**40, 2**63 - 1)
"""Of what would be allocated."""
CODE = (
    "fuzz_payload:Y",
    "fuzz_payload:Y-v0",
    "os:system",
    "os:system:touch CANARY",
    "builtins:exec",
    "subprocess:run",
    "fuzz_payload",
    "fuzz_payload.Y",
    "importlib:import_module",
    "pdb:run",
    "shutil:rmtree",
    "__main__:Y",
)
"""Names that would be code if they were looked up."""
PATHS = (
    "/etc/passwd",
    "../../etc/passwd",
    "..",
    ".",
    "",
    "/dev/zero",
    "/dev/stdin",
    "a\0b",
    "~/x",
    "x" * 5000,
    "//",
    "frames.webp/x",
)

_pools: dict[int, list[Any]] = {}


def values(seed: int, count: int = 300) -> list[Any]:
    """JSON values that Hypothesis draws: the same for the same seed."""
    if seed not in _pools:
        import hypothesis
        from hypothesis import strategies as st

        leaf = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
        document = st.recursive(
            leaf,
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(st.text(max_size=8), inner, max_size=4)
            ),
        )
        found: list[Any] = []

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=count,
            database=None,
            deadline=None,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(document)
        def collect(value: Any) -> None:
            found.append(value)

        collect()
        _pools[seed] = found
    return _pools[seed]


def other_type(value: Any, rng: random.Random, seed: int) -> Any:
    """A value of another JSON type than ``value``."""
    for _ in range(100):
        new = copy.deepcopy(rng.choice(values(seed)))
        numbers = (int, float)
        if type(new) is type(value) or (
            isinstance(new, numbers) and isinstance(value, numbers) and not isinstance(new, bool)
        ):
            continue
        # An empty list is as much of a tuple or a list as a full one, null may be allowed: those
        # are other mutations.
        if new is None or new in ([], {}, ""):
            continue
        return new
    return [["x"]]


# Bytes.


def flip(path: Path, rng: random.Random) -> str:
    """Flip one to eight bits; returns where."""
    data = bytearray(path.read_bytes())
    places = []
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        at, bit = rng.randrange(len(data)), rng.randrange(8)
        data[at] ^= 1 << bit
        places.append(f"{at}.{bit}")
    path.write_bytes(bytes(data))
    return f"{path.name} at {' '.join(places)}"


def cut(path: Path, rng: random.Random) -> str:
    """Keep a part; returns how much."""
    data = path.read_bytes()
    size = rng.choice((0, 1, 7, 8, 9, len(data) // 2, len(data) - 1, rng.randrange(len(data))))
    path.write_bytes(data[:size])
    return f"{path.name} to {size} of {len(data)} bytes"


def extend(path: Path, rng: random.Random) -> str:
    """Append bytes; returns how many."""
    more = rng.choice((1, 16, 4096))
    with open(path, "ab") as file:
        file.write(rng.randbytes(more))
    return f"{path.name} by {more} bytes"


def noise(path: Path, rng: random.Random) -> str:
    """Other content altogether."""
    content = rng.choice(
        (
            b"",
            b"\x00" * 64,
            rng.randbytes(2000),
            b"{}",
            b"[]",
            b"null",
            b"\xff\xfe{}",
            b"PK\x03\x04" + b"x" * 99,
        )
    )
    path.write_bytes(content)
    return f"{path.name} is {len(content)} bytes of something else"


def swap(path: Path, rng: random.Random, canary: Path) -> str:
    """Something other than a regular file of the folder at ``path``; returns what."""
    what = rng.choice(
        (
            "fifo",
            "link to zero",
            "link to random",
            "link out",
            "folder",
            "dangling link",
            "link to itself",
            "missing",
        )
    )
    outside = canary.parent / "outside.bin"
    content = path.read_bytes()
    path.unlink()
    if what == "fifo":
        os.mkfifo(path)
    elif what == "link to zero":
        path.symlink_to("/dev/zero")
    elif what == "link to random":
        path.symlink_to("/dev/urandom")
    elif what == "link out":
        outside.write_bytes(content)
        path.symlink_to(outside)
    elif what == "folder":
        path.mkdir()
    elif what == "dangling link":
        path.symlink_to("nowhere")
    elif what == "link to itself":
        path.symlink_to(path.name)
    return f"{path.name} is a {what}"


# JSON.


def leaves(document: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Every value of a document, containers included, with its place."""
    if place:
        yield place, document
    if isinstance(document, dict):
        for key, value in document.items():
            yield from leaves(value, (*place, key))
    elif isinstance(document, list):
        # Of long lists a few entries: they are all alike.
        for i in sorted({0, 1, len(document) // 2, len(document) - 1} & set(range(len(document)))):
            yield from leaves(document[i], (*place, i))


def get(document: Any, place: Place) -> Any:
    for key in place:
        document = document[key]
    return document


def put(document: Any, place: Place, value: Any) -> Any:
    """A copy of the document with another value at a place."""
    document = copy.deepcopy(document)
    get(document, place[:-1])[place[-1]] = value
    return document


def drop(document: Any, place: Place) -> Any:
    """A copy of the document without the value at a place."""
    document = copy.deepcopy(document)
    del get(document, place[:-1])[place[-1]]
    return document


def dotted(place: Place) -> str:
    return ".".join(map(str, place))


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def write(path: Path, document: Any) -> None:
    """JSON with Python's NaN and Infinity; integers of any length."""
    path.write_text(json.dumps(document))


def write_deep(path: Path, document: Any, place: Place, depth: int = 100_000) -> None:
    """The document with a list nested ``depth`` times at a place."""
    marker = "@@deep@@"
    text = json.dumps(put(document, place, marker))
    path.write_text(text.replace(f'"{marker}"', "[" * depth + "]" * depth))


# Safetensors, written by hand so that headers may lie.


def read_tensors(path: Path) -> tuple[dict[str, Any], bytes]:
    """Header and content of a safetensors file."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def write_tensors(path: Path, header: dict[str, Any], content: bytes) -> None:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + content)


def names_of(header: dict[str, Any]) -> list[str]:
    return [name for name in header if name != "__metadata__"]


def change_tensors(path: Path, rng: random.Random) -> str:
    """One structural lie in a safetensors file; returns what. Every one of them has to be
    refused."""
    header, content = read_tensors(path)
    name = rng.choice(names_of(header))
    entry = header[name]
    ways = [
        "rename",
        "drop",
        "dtype",
        "shape",
        "transpose",
        "huge shape",
        "offsets",
        "overlap",
        "empty",
        "header size",
        "extra",
        "swap",
    ]
    way = rng.choice(ways)
    if way == "rename":
        header[rng.choice((name + "x", "", "x" * 300, name.upper() + "_"))] = header.pop(name)
    elif way == "drop":
        begin, end = entry["data_offsets"]
        content = content[:begin] + content[end:]
        del header[name]
        for other in names_of(header):
            header[other]["data_offsets"] = [
                x - (end - begin) if x >= end else x for x in header[other]["data_offsets"]
            ]
    elif way == "dtype":
        alike = {
            "F32": ["I32", "U32"],
            "I64": ["F64", "U64"],
            "U8": ["I8", "BOOL"],
            "BOOL": ["U8", "I8"],
            "F16": ["BF16", "I16"],
        }
        entry["dtype"] = rng.choice(alike.get(entry["dtype"], ["F4", "?"]))
    elif way == "shape":
        entry["shape"] = [*entry["shape"], 1]
    elif way == "transpose":
        if len(entry["shape"]) < 2 or entry["shape"] == entry["shape"][::-1]:
            entry["shape"] = [1, 1, *entry["shape"]]
        else:
            entry["shape"] = entry["shape"][::-1]
    elif way == "huge shape":
        entry["shape"] = [rng.choice(SIZES), *entry["shape"]]
    elif way == "offsets":
        entry["data_offsets"] = [x + rng.choice((-8, 8, 2**40)) for x in entry["data_offsets"]]
    elif way == "overlap":
        other = rng.choice(names_of(header))
        entry["data_offsets"] = header[other]["data_offsets"] if other != name else [0, 1]
    elif way == "empty":
        header, content = {k: v for k, v in header.items() if k == "__metadata__"}, b""
    elif way == "header size":
        data = path.read_bytes()
        path.write_bytes(
            struct.pack("<Q", rng.choice((0, 1, 2**40, 2**64 - 1, len(data)))) + data[8:]
        )
        return f"{path.name}: header size"
    elif way == "extra":
        header["extra.tensor"] = {
            "dtype": "U8",
            "shape": [4],
            "data_offsets": [len(content), len(content) + 4],
        }
        content += b"\0" * 4
    elif way == "swap":
        alike_names = [
            n
            for n in names_of(header)
            if n != name
            and header[n]["shape"] == entry["shape"]
            and header[n]["dtype"] == entry["dtype"]
            and _bytes(header[n], content) != _bytes(entry, content)
        ]
        if not alike_names:
            entry["shape"] = [0]
        else:
            other = rng.choice(alike_names)
            header[name], header[other] = header[other], header[name]
    write_tensors(path, header, content)
    return f"{path.name}: {way} {name}"


def _bytes(entry: dict[str, Any], content: bytes) -> bytes:
    return content[slice(*entry["data_offsets"])]


def poison(path: Path, rng: random.Random, names: list[str] | None = None) -> str:
    """NaN, infinity or a huge number in a float tensor; returns what."""
    header, content = read_tensors(path)
    floats = [
        n
        for n in (names or names_of(header))
        if n in header and header[n]["dtype"] in ("F32", "F16", "BF16")
    ]
    name = rng.choice(floats)
    size = {"F32": 4, "F16": 2, "BF16": 2}[header[name]["dtype"]]
    begin, end = header[name]["data_offsets"]
    at = begin + size * rng.randrange(max(1, (end - begin) // size))
    label = rng.choice(("nan", "inf", "-inf"))
    number = np.float32(label) if size == 4 else np.float16(label)
    data = bytearray(content)
    if header[name]["dtype"] == "BF16":
        data[at : at + 2] = np.float32(label).tobytes()[2:]
    else:
        data[at : at + size] = number.tobytes()
    write_tensors(path, header, bytes(data))
    return f"{path.name}: {name} has a {label}"


# Pictures.


def png(
    width: int, height: int, bits: int = 8, colour: int = 2, content: bytes | None = None
) -> bytes:
    """A PNG of zeros that claims any size; ``content`` is the compressed data, by default a few
    rows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    data = zlib.compress(b"\0" * 4096) if content is None else content
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def bomb(width: int = 30_000, height: int = 30_000) -> bytes:
    """A valid PNG of little size whose pixels take gigabytes."""
    row = b"\0" * (1 + 3 * width)
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(row) for _ in range(min(height, 400))) + packer.flush()
    return png(width, height, content=data)


def other_picture(path: Path, rng: random.Random, canary: Path) -> str:
    """Another picture under the name of ``path``; returns what. All have to be refused."""
    import io

    from PIL import Image

    what = rng.choice(
        ("bomb", "claimed size", "eps", "gif", "bmp", "tiff", "other size", "grey", "alpha", "text")
    )
    if what == "bomb":
        path.write_bytes(bomb())
    elif what == "claimed size":
        path.write_bytes(png(2**31 - 1, 2**31 - 1))
    elif what == "eps":
        # Pillow hands such files to Ghostscript, which runs programs.
        path.write_bytes(
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\n"
            + f"(%pipe%touch {canary}) (w) file closefile\nshowpage\n%%EOF\n".encode()
        )
    elif what == "text":
        path.write_bytes(b"P3 2 2 255 0 0 0 0 0 0 0 0 0 0 0 0")
    else:
        with Image.open(path) as image:
            image.load()
            changed = image.copy()
        buffer = io.BytesIO()
        if what == "other size":
            changed.resize((changed.width + 8, changed.height + 8)).save(buffer, "PNG")
        elif what == "grey":
            changed.convert("L").save(buffer, "PNG")
        elif what == "alpha":
            changed.convert("LA").save(buffer, "PNG")
        else:
            changed.convert("RGB").save(buffer, what.upper())
        path.write_bytes(buffer.getvalue())
    return f"{path.name} is {what}"


def pick(rng: random.Random, weighted: dict[Callable[..., Any], int]) -> Callable[..., Any]:
    """One of several, by weight."""
    return rng.choices(list(weighted), list(weighted.values()))[0]
