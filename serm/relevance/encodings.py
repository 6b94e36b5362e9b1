"""What a frozen encoder made of texts, kept on disk: the steps of a cycle read the same texts over and over.

A directory of safetensors files, each written once and whole. It is never needed: what is missing, damaged or cut off
is computed again, to the same bits, for a text's bits do not depend on what is encoded beside it (``Encoder``).
"""

from __future__ import annotations

import hashlib
import logging
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from serm.atomic import replace_file
from serm.errors import UserError
from serm.relevance.interface import Indices
from serm.relevance.packing import within

_LOG = logging.getLogger(__name__)
#: Fewer texts than this are not worth a file.
WORTH_A_FILE = 32
#: Bytes of a file's description, at most.
_HEADER = 1024
_KEY = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Encoded:
    """``n`` encoded texts of ``tokens`` tokens in all."""

    vectors: torch.Tensor
    """[n, dim] fp32, unit norm."""
    states: torch.Tensor
    """[tokens + 1, dim] fp16: the texts' hidden states, one text after the other; the last row is padding."""
    lengths: Indices
    """[n] tokens of each text; 0 where only its vector was asked for."""

    @cached_property
    def starts(self) -> Indices:
        """[n] the row of each text's first token."""
        return np.cumsum(self.lengths) - self.lengths


class Encodings:
    """The encodings of one encoder that are kept in a directory; other encoders' may lie beside them."""

    def __init__(self, folder: Path, megabytes: int, version: str, dim: int) -> None:
        """Keep at most ``megabytes`` in ``folder``, what was used last; ``version`` tells the encoder's every bit."""
        self._folder, self._room = folder, megabytes * 1_000_000
        self._version, self._dim = version, dim
        self._parts: dict[Path, _Part] | None = None

    def find(self, keys: Sequence[bytes], layer: int | None) -> list[tuple[Indices, Encoded]]:
        """Return which of the ``keys`` are known: their places among the keys, and their encodings in that order.

        With a ``layer`` their states as they enter it, too; else no states.
        """
        found, open_places = [], np.arange(len(keys))
        for file, part in self._known(layer).items():
            rows = np.array([part.rows.get(keys[place], -1) for place in open_places.tolist()], np.int64)
            rows[[at for at in np.flatnonzero(rows >= 0) if not part.is_whole(int(rows[at]))]] = -1
            if (rows >= 0).any():
                with suppress(OSError):  # the newest use; another process may have taken the file away
                    os.utime(file)
                found.append((open_places[rows >= 0], _chosen(part.encoded, rows[rows >= 0], layer is not None)))
                open_places = open_places[rows < 0]
        return found

    def add(self, keys: Sequence[bytes], encoded: Encoded, layer: int | None) -> None:
        """Keep the encodings of ``keys``, where they are many enough, and there is room and a disk to write to."""
        if len(keys) < WORTH_A_FILE:
            return
        tensors = {
            "keys": torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).view(len(keys), _KEY),
            "vectors": encoded.vectors,
            "states": encoded.states,
            "lengths": torch.from_numpy(encoded.lengths),
            "checks": torch.tensor([_check(keys[row], *one) for row, one in enumerate(_rows(encoded))]),
        }
        size = _HEADER + sum(tensor.nbytes for tensor in tensors.values())
        if size > self._room:
            return
        name = hashlib.sha256(b"".join(keys)).hexdigest()[:32]
        file = self._folder / f"{self._version}.{_of(layer)}.{name}.safetensors"
        try:
            self._make_room(size)
            with replace_file(file) as beside:
                save_file(tensors, beside)
            if self._parts is not None:
                self._parts[file] = _Part.read(file, self._dim)
        except (OSError, UserError, SafetensorError) as error:
            _LOG.info("serm: encodings are not kept: %s", error)

    def _known(self, layer: int | None) -> dict[Path, _Part]:
        """Return the files that can answer: with no ``layer`` any of this encoder's, for all hold vectors."""
        if self._parts is None:
            self._parts = {}
            for file in sorted(self._folder.glob(f"{self._version}.*.safetensors")):
                try:
                    self._parts[file] = _Part.read(file, self._dim)
                except (OSError, SafetensorError, ValueError) as error:
                    _LOG.info("serm: %s is not readable (%s); its texts are encoded again", file, error)
                    with suppress(OSError):
                        file.unlink()
        wanted = f".{_of(layer)}." if layer is not None else "."
        return {file: part for file, part in self._parts.items() if wanted in file.name}

    def _make_room(self, size: int) -> None:
        """Take away what was not used for longest, so that ``size`` bytes more stay within the bound."""
        files = [(file.stat().st_mtime_ns, file) for file in self._folder.glob("*.safetensors")]
        held = sum(file.stat().st_size for _, file in files)
        for _, file in sorted(files):
            if held + size <= self._room:
                break
            held -= file.stat().st_size
            file.unlink(missing_ok=True)
            if self._parts:
                self._parts.pop(file, None)


@dataclass(frozen=True)
class _Part:
    """One file, mapped from disk."""

    rows: dict[bytes, int]
    encoded: Encoded
    keys: NDArray[np.uint8]
    checks: Indices

    @classmethod
    def read(cls, file: Path, dim: int) -> _Part:
        """Map a file; raises ``SafetensorError`` or ``ValueError`` where it is not one that ``Encodings`` wrote."""
        tensors = load_file(file)
        try:
            keys, lengths, checks = (tensors[name].numpy() for name in ("keys", "lengths", "checks"))
            vectors, states = tensors["vectors"], tensors["states"]
        except KeyError as error:
            raise ValueError(f"no {error}") from error
        n, tokens = len(lengths), int(lengths.sum())
        shapes = (keys.shape, vectors.shape, states.shape, checks.shape)
        if shapes != ((n, _KEY), (n, dim), (tokens + 1, dim), (n,)) or (lengths < 0).any():
            raise ValueError("its tensors do not fit each other")
        rows = {key.tobytes(): row for row, key in enumerate(keys)}
        return cls(rows, Encoded(vectors, states, lengths), keys, checks)

    def is_whole(self, row: int) -> bool:
        """Whether a row is as it was written."""
        (one,) = _rows(self.encoded, row, row + 1)
        return bool(self.checks[row] == _check(self.keys[row].tobytes(), *one))


def joined(parts: Sequence[tuple[Indices, Encoded]], count: int, dim: int) -> Encoded:
    """Return the encodings of ``count`` texts, each of which stands in one of the ``parts`` at its place."""
    lengths = np.zeros(count, np.int64)
    for places, part in parts:
        lengths[places] = part.lengths
    whole = Encoded(torch.empty(count, dim), torch.zeros(int(lengths.sum()) + 1, dim, dtype=torch.half), lengths)
    for places, part in parts:
        whole.vectors[places] = part.vectors
        whole.states[_tokens(whole.starts[places], part.lengths)] = part.states[:-1]
    return whole


def _chosen(encoded: Encoded, rows: Indices, with_states: bool) -> Encoded:
    lengths = encoded.lengths[rows] if with_states else np.zeros(len(rows), np.int64)
    tokens = _tokens(encoded.starts[rows], lengths)
    padding = torch.zeros(1, encoded.states.shape[1], dtype=torch.half)
    return Encoded(encoded.vectors[rows], torch.cat([encoded.states[tokens], padding]), lengths)


def _tokens(starts: Indices, lengths: Indices) -> torch.Tensor:
    """Return the rows of the texts' tokens, one text after the other."""
    return torch.from_numpy(np.repeat(starts, lengths) + within(lengths))


def _rows(encoded: Encoded, begin: int = 0, end: int | None = None) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Yield the vector and the states of each row."""
    vectors, states = encoded.vectors.numpy(), encoded.states.numpy()
    for row in range(begin, len(vectors) if end is None else end):
        start = encoded.starts[row]
        yield vectors[row], states[start : start + encoded.lengths[row]]


def _check(key: bytes, *arrays: NDArray[Any]) -> int:
    check = zlib.crc32(key)
    for array in arrays:
        check = zlib.crc32(array.tobytes(), check)
    return check


def _of(layer: int | None) -> str:
    return "vectors" if layer is None else f"layer-{layer}"
