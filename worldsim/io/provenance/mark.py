"""An invisible mark of 32 bits in pictures and films for people.

Spread spectrum in the 8x8 DCT of the luma (Cox et al., 1997), with a key per frame. The 32 bits are
four symbols of 8 bits; each is sent as one of 256 biorthogonal codewords (rows of a Hadamard matrix
of 128, and their negatives), whose elements are repeated over all blocks and frames. The reader
correlates clipped coefficients with the key and takes the strongest codeword.

Pictures are first resampled to a canonical size, so that a mark outlives enlarging. Under the key's
random signs, Hoeffding's inequality bounds the score of an unmarked picture whatever it shows:
``P(score > s) <= exp(-s**2 / 2)``. Thresholds follow from it, divided among all searched offsets.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from worldsim.errors import InvalidInputError
from worldsim.runtime.types import Array

BITS, SYMBOLS, SYMBOL_BITS, CODE = 32, 4, 8, 128
BLOCK = 8
PERIOD = 16
"""Frames after which the frames' keys repeat; a reader tries as many offsets in time."""
FILM_SIDE, PICTURE_SIDE = 64, 256
"""Canonical length of the shorter side in pixels. Single pictures need more blocks than films."""
BANDS = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (1, 2))
"""Marked DCT coefficients (row, column): they survive H.264 on small frames."""
PSNR = 40.15
"""Of the marked film or picture to the unmarked one in dB, at least."""
CLIP = 12.0
"""Coefficients are clipped to this value before they are correlated: strong edges are no
evidence."""
FALSE_POSITIVE_RATE = 1e-6
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
KEY = b"worldsim mark 1"
"""Public: anyone can read marks, and nobody can prove authorship by one; signatures do that."""


@dataclass(frozen=True)
class Reading:
    """What a reader found.

    payload: the most likely 32 bits.
    score: correlation with that payload in standard deviations of an unmarked picture.
    found: whether an unmarked picture exceeds the score with a probability below
        :data:`FALSE_POSITIVE_RATE`, over all 2**32 payloads and all searched offsets.
    offset: key of the first frame, and canonical pixels that were cut at the top and on the left.
    """

    payload: int
    score: float
    found: bool
    offset: tuple[int, int, int]


@dataclass(frozen=True)
class Settings:
    """Settings of the mark; the defaults are those of files. Experiments vary them."""

    bands: tuple[tuple[int, int], ...] = BANDS
    clip: float = CLIP
    psnr: float = PSNR
    hold: int = 1
    """Frames in a row that share a key."""
    predict: bool = True
    """Subtract the mean of neighbouring frames before correlating."""
    refine: int = 2
    """Times that elements which came out wrong are strengthened while embedding."""


DEFAULT = Settings()


def embed_film(frames: Sequence[Array], payload: int, settings: Settings = DEFAULT) -> list[Array]:
    """Return frames (h, w, 3) uint8 that carry ``payload``, changed by at most 40 dB of PSNR."""
    return _embed(frames, payload, FILM_SIDE, settings)


def embed_picture(picture: Array, payload: int, settings: Settings = DEFAULT) -> Array:
    """Return a picture (h, w, 3) uint8 that carries ``payload``."""
    return _embed([picture], payload, _picture_side(picture), settings)[0]


def read_film(
    frames: Sequence[Array], crop: int = 0, settings: Settings = DEFAULT, side: int = FILM_SIDE
) -> Reading:
    """Return the mark of frames (h, w, 3) uint8.

    crop: also try that up to so many canonical pixels were cut on the left and at the top. The
        frames must then have the canonical scale already.
    """
    luma = _canonical(frames, side) if not crop else np.stack([_luma(f) for f in frames])
    return _read(luma, crop, PERIOD, settings)


def read_picture_mark(picture: Array, settings: Settings = DEFAULT) -> Reading:
    """Return the mark of a picture (h, w, 3) uint8; also that of a single frame of a film."""
    still = _read(_canonical([picture], _picture_side(picture)), 0, 1, settings)
    if still.found or _picture_side(picture) == FILM_SIDE:
        return still
    frame = _read(_canonical([picture], FILM_SIDE), 0, PERIOD, settings)
    return frame if frame.found else still


def score_of(
    frames: Sequence[Array], payload: int, settings: Settings = DEFAULT
) -> tuple[float, bool]:
    """Return the best score against a known payload, and whether it is significant.

    All :data:`PERIOD` offsets in time are searched, and the threshold accounts for them.
    """
    luma = _canonical(frames, FILM_SIDE)
    chips = _chips(_coefficients(luma, settings), settings)
    scores = [float(_sign(payload) @ _correlate(chips, k, settings)) for k in range(PERIOD)]
    return max(scores), max(scores) > threshold(PERIOD)


def threshold(offsets: int, payloads: float = 1.0) -> float:
    """Return the score that an unmarked picture exceeds with probability below 1e-6."""
    return math.sqrt(2.0 * math.log(offsets * payloads / FALSE_POSITIVE_RATE))


def _picture_side(picture: Array) -> int:
    return PICTURE_SIDE if min(picture.shape[:2]) >= PICTURE_SIDE else FILM_SIDE


def _luma(frame: Array) -> Array:
    return np.asarray(frame, np.float32) @ LUMA


def _size(frame: Array, side: int) -> tuple[int, int]:
    """Return the canonical (height, width): multiples of a block, the shorter one ``side``."""
    h, w = frame.shape[:2]
    scale = side / min(h, w)
    size = [max(BLOCK, round(n * scale / BLOCK) * BLOCK) for n in (h, w)]
    return min(size[0], 64 * side), min(size[1], 64 * side)


def _canonical(frames: Sequence[Array], side: int) -> Array:
    """Return the luma (t, h, w) float32 at canonical size."""
    if not len(frames) or np.ndim(frames[0]) != 3 or np.shape(frames[0])[2] != 3:
        raise InvalidInputError(
            f"a mark needs pictures (h, w, 3) uint8, got {len(frames)} of shape "
            f"{np.shape(frames[0]) if len(frames) else ()}"
        )
    h, w = _size(frames[0], side)
    made = []
    for frame in frames:
        luma = _luma(frame)
        if luma.shape != (h, w):
            luma = cv2.resize(luma, (w, h), interpolation=cv2.INTER_AREA)
        made.append(luma)
    return np.stack(made)


@lru_cache(maxsize=8)
def _basis(bands: tuple[tuple[int, int], ...]) -> Array:
    """Return the orthonormal DCT's basis pictures of the marked coefficients (n, 8, 8)."""
    k, x = np.arange(BLOCK)[:, None], np.arange(BLOCK)[None]
    dct = np.cos(math.pi * (2 * x + 1) * k / (2 * BLOCK)) * np.sqrt(2.0 / BLOCK)
    dct[0] = np.sqrt(1.0 / BLOCK)
    return np.stack([np.outer(dct[u], dct[v]) for u, v in bands]).astype(np.float32)


def _coefficients(luma: Array, settings: Settings) -> Array:
    """Return the marked coefficients (t, rows, columns, n) of whole blocks."""
    t, h, w = luma.shape
    h, w = h // BLOCK * BLOCK, w // BLOCK * BLOCK
    blocks = luma[:, :h, :w].reshape(t, h // BLOCK, BLOCK, w // BLOCK, BLOCK)
    return np.einsum("trycx,nyx->trcn", blocks, _basis(settings.bands), optimize=True)


def _chips(coefficients: Array, settings: Settings) -> Array:
    """Return coefficients less a prediction from neighbouring frames, clipped."""
    made = coefficients
    t = len(made)
    if settings.predict and t >= 3 and settings.hold == 1:
        around = np.concatenate([made[1:2], made, made[-2:-1]])
        near = 0.5 * (around[:-2] + around[2:])
        # Where neighbours do not tell the frame, their mean only adds noise.
        same = np.abs(made - near) < np.abs(made)
        made = np.where(same, made - near, made)
    return np.clip(made, -settings.clip, settings.clip)


@lru_cache(maxsize=512)
def _frame_key(index: int, rows: int, columns: int, n: int) -> tuple[Array, Array]:
    """Return signs and code elements (rows, columns, n) of the frame ``index``.

    Elements are 0 to SYMBOLS * CODE - 1, each used about equally often.
    """
    seed = hashlib.sha256(KEY + index.to_bytes(4, "big")).digest()
    rng = np.random.default_rng(np.frombuffer(seed, np.uint32))
    size = rows * columns * n
    signs = rng.integers(0, 2, size, np.int8) * 2 - 1
    # A small frame has fewer coefficients than the code has elements: frames take turns.
    elements = rng.permutation((np.arange(size) + index * size) % (SYMBOLS * CODE))
    shape = (rows, columns, n)
    return signs.reshape(shape).astype(np.float32), elements.reshape(shape)


def _film_key(
    first: int, t: int, rows: int, columns: int, n: int, hold: int
) -> tuple[Array, Array]:
    """Return signs and code elements (t, rows, columns, n) from the frame ``first`` on."""
    keys = [_frame_key((first + i) // hold % PERIOD, rows, columns, n) for i in range(t)]
    return np.stack([signs for signs, _ in keys]), np.stack([one for _, one in keys])


@lru_cache(maxsize=1)
def _hadamard() -> Array:
    made = np.ones((1, 1), np.float32)
    while len(made) < CODE:
        made = np.block([[made, made], [made, -made]])
    return made


def _sign(payload: int) -> Array:
    """Return the codeword (SYMBOLS * CODE,) of +1 and -1."""
    made = []
    for i in range(SYMBOLS):
        symbol = payload >> (SYMBOL_BITS * i) & 0xFF
        made.append(_hadamard()[symbol & 0x7F] * (-1.0 if symbol & 0x80 else 1.0))
    return np.concatenate(made)


def _correlate(
    chips: Array, first: int, settings: Settings, grid: tuple[int, int, int, int] | None = None
) -> Array:
    """Return sums of chips by code element (SYMBOLS * CODE,), over the norm of all chips.

    first: key of the first frame.
    grid: rows and columns of the uncut frames, and the block at which these chips begin.
    """
    t, rows, columns, n = chips.shape
    height, width, top, left = grid or (rows, columns, 0, 0)
    signs, elements = _film_key(first * settings.hold, t, height, width, n, settings.hold)
    part = slice(None), slice(top, top + rows), slice(left, left + columns)
    total = np.bincount(elements[part].ravel(), (signs[part] * chips).ravel(), SYMBOLS * CODE)
    return total / max(1e-9, float(np.sqrt((chips.astype(np.float64) ** 2).sum())))


def _decode(sums: Array) -> tuple[int, float]:
    """Return the best payload and its score."""
    payload, score = 0, 0.0
    for i in range(SYMBOLS):
        strength = _hadamard() @ sums[i * CODE : (i + 1) * CODE]
        best = int(np.abs(strength).argmax())
        payload |= (best | (0x80 if strength[best] < 0 else 0)) << (SYMBOL_BITS * i)
        score += float(abs(strength[best]))
    return payload, score


def _read(luma: Array, crop: int, offsets: int, settings: Settings) -> Reading:
    best: tuple[float, int, tuple[int, int, int]] = (-1.0, 0, (0, 0, 0))
    tried = 0
    for top in range(crop + 1):
        for left in range(crop + 1):
            cut = luma[:, -top % BLOCK :, -left % BLOCK :]
            if min(cut.shape[1:]) < BLOCK:
                continue
            chips = _chips(_coefficients(cut, settings), settings)
            begin = -(-top // BLOCK), -(-left // BLOCK)
            grid = None
            if crop:
                # Frames are square or wide multiples of the canonical side; the cut is small.
                full = [
                    -(-(n + c) // BLOCK) for n, c in zip(luma.shape[1:], (top, left), strict=True)
                ]
                grid = (max(8, full[0]), max(8, full[1]), *begin)
            for first in range(offsets):
                tried += 1
                payload, score = _decode(_correlate(chips, first, settings, grid))
                if score > best[0]:
                    best = score, payload, (first, top, left)
    score, payload, offset = best
    found = score > threshold(max(1, tried), 2.0**BITS)
    return Reading(payload, score, found, offset)


def _embed(frames: Sequence[Array], payload: int, side: int, settings: Settings) -> list[Array]:
    if isinstance(payload, bool) or not 0 <= payload < 2**BITS:
        raise InvalidInputError(f"payload = {payload!r}: give a whole number of {BITS} bits")
    luma = _canonical(frames, side)
    pictures = [np.asarray(frame) for frame in frames]
    code = _sign(payload)
    host = _coefficients(luma, settings)
    t, rows, columns, n = host.shape
    signs, elements = _film_key(0, t, rows, columns, n, settings.hold)
    signs = signs * code[elements]
    weight = np.ones_like(host)
    made = pictures
    for _ in range(max(1, settings.refine)):
        gain = _gain(pictures, signs * weight, settings)
        made = _add(pictures, gain * signs * weight, settings)
        # Dark and bright pixels cannot move in one direction: more energy where it arrives.
        arrived = (_coefficients(_canonical(made, side), settings) - host) * signs
        weight = weight * np.clip(0.5 + 0.5 * arrived / max(1e-6, gain), 0.5, 1.5)
    return made


def _gain(pictures: Sequence[Array], pattern: Array, settings: Settings) -> float:
    """Return the largest gain that keeps the PSNR, by bisection over a few frames."""
    step = max(1, len(pictures) // 16)
    some, part = pictures[::step], pattern[::step]
    most = 255.0**2 / 10 ** (settings.psnr / 10)
    low, high = 0.0, 40.0
    for _ in range(9):
        gain = 0.5 * (low + high)
        after = _add(some, gain * part, settings)
        error = np.mean(
            [
                np.mean((a.astype(np.float32) - b.astype(np.float32)) ** 2)
                for a, b in zip(after, some, strict=True)
            ]
        )
        low, high = (gain, high) if error <= most else (low, gain)
    return low


def _add(pictures: Sequence[Array], change: Array, settings: Settings) -> list[Array]:
    """Add DCT coefficients (t, rows, columns, n) to the luma of pictures."""
    t, rows, columns, _ = change.shape
    plane = np.einsum("trcn,nyx->trycx", change, _basis(settings.bands), optimize=True)
    plane = plane.reshape(t, rows * BLOCK, columns * BLOCK).astype(np.float32)
    made = []
    for picture, delta in zip(pictures, plane, strict=True):
        h, w = picture.shape[:2]
        if delta.shape != (h, w):
            delta = cv2.resize(delta, (w, h), interpolation=cv2.INTER_LINEAR)
        changed = picture.astype(np.float32) + delta[..., None]
        made.append(np.clip(np.rint(changed), 0, 255).astype(np.uint8))
    return made
