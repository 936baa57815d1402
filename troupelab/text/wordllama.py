"""Vectors of meanings without a network or a GPU: the static word vectors that the `wordllama` package carries.

`WordLlamaEmbedder` reads two files of the installed package (the weights `l2_supercat_256`, MIT licence, and their
tokenizer) and nothing else of it: the package's own import would load an HTTP client and set up the root logger. A text's
vector is the direction of the sum of its tokens' vectors, as in the package (Miller, WordLlama, 2024,
github.com/dleemiller/WordLlama); texts are tokenised word by word, so that known words cost a look-up instead of an encoding.

The model is loaded once a process, on the first text. Any thread may call what is here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from troupelab.errors import MissingPackageError
from troupelab.text.embed import Embedder, HashingEmbedder, Vectors, unit

__all__ = ["WordLlamaEmbedder", "default_embedder"]

_DIMS = 256
_WEIGHTS = Path("weights", "l2_supercat_256.safetensors")
_TOKENIZER = Path("tokenizers", "l2_supercat_tokenizer_config.json")

_INSTALL = 'pip install "wordllama>=0.4,<0.5"'

_MOST_HEADER = 100_000
_MOST_CHARS = 20_000
_CACHED_CHARS = 2_000
_CACHED_WORD_CHARS = 64
_CACHED_WORDS = 32_768


class _Tensor(msgspec.Struct):
    dtype: str
    shape: tuple[int, int]
    data_offsets: tuple[int, int]


class _Header(msgspec.Struct):
    tensor: _Tensor = msgspec.field(name="embedding.weight")


class _Words(dict[str, bytes]):
    """For each word that was met, where its tokens' vectors are: as bytes, which are joined faster than lists."""

    def __init__(self, places: Callable[[str], bytes]) -> None:
        super().__init__()
        self._places = places

    def __missing__(self, word: str) -> bytes:
        found = self._places(word)
        if len(word) <= _CACHED_WORD_CHARS:
            if len(self) >= _CACHED_WORDS:
                self.clear()  # seldom, and words are quickly met again
            self[word] = found
        return found


class _Model:
    """The tokenizer, and the vectors of the tokens that were met so far: 1 kB each, in the order of their first use."""

    def __init__(self, weights: Path, tokenizer: Path) -> None:
        from tokenizers import Tokenizer

        self._encode = Tokenizer.from_file(str(tokenizer)).encode
        self._source = _mapped(weights)
        # Virtual memory: only rows that are written take RAM, and `rows` hands them out without gaps.
        self._vectors: Vectors = np.empty(self._source.shape, dtype=np.float32)
        self._rows: dict[int, int] = {}
        self._lock = threading.Lock()
        self._words = _Words(self._places)

    def vector(self, text: str) -> NDArray[np.float32]:
        words = text[:_MOST_CHARS].split()
        if not words:
            return np.zeros(_DIMS, dtype=np.float32)
        places = np.frombuffer(b"".join(map(self._words.__getitem__, words)), dtype=np.intp)
        # "clip" spares the look at each index; all are in range. Rows are added one after the other: the same everywhere.
        return unit(np.add.reduce(self._vectors.take(places, axis=0, mode="clip"), axis=0))

    def _places(self, word: str) -> bytes:
        clean = word.encode("utf-8", "replace").decode("utf-8")  # the tokenizer refuses lone surrogates
        tokens = self._encode(clean, add_special_tokens=False).ids  # one text at a time starts no threads
        with self._lock:
            places = [self._place(min(token, len(self._source) - 1)) for token in tokens]
        return np.array(places, dtype=np.intp).tobytes()

    def _place(self, token: int) -> int:
        place = self._rows.get(token)
        if place is None:
            place = len(self._rows)
            self._vectors[place] = self._source[token]
            self._rows[token] = place
        return place


def _mapped(weights: Path) -> NDArray[np.float16]:
    """The matrix in a safetensors file: eight bytes for the header's length, a JSON header, raw numbers.

    The format is written down in github.com/huggingface/safetensors. Mapped pages are the system's to take back.
    """
    with weights.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        try:
            tensor = msgspec.json.decode(file.read(min(size, _MOST_HEADER)), type=_Header).tensor
        except msgspec.DecodeError as error:
            raise MissingPackageError(f"the installed wordllama has weights that cannot be read: {_INSTALL}") from error
    if tensor.dtype != "F16" or tensor.shape[1] != _DIMS:
        raise MissingPackageError(f"the installed wordllama has other weights than expected: {_INSTALL}")
    return np.memmap(weights, dtype="<f2", mode="r", offset=8 + size + tensor.data_offsets[0], shape=tensor.shape)


_loading = threading.Lock()
_model: _Model | None = None


def _files() -> tuple[Path, Path] | None:
    """Where the weights and the tokenizer lie, without importing the package; None where they are missing."""
    spec = find_spec("wordllama")
    if spec is None or find_spec("tokenizers") is None:
        return None
    for folder in spec.submodule_search_locations or ():
        weights, tokenizer = Path(folder, _WEIGHTS), Path(folder, _TOKENIZER)
        if weights.is_file() and tokenizer.is_file():
            return weights, tokenizer
    return None


def _load() -> _Model:
    global _model
    if _model is None:
        with _loading:
            if _model is None:
                files = _files()
                if files is None:
                    raise MissingPackageError(f"the wordllama embedder needs a package: {_INSTALL}")
                _model = _Model(*files)
    return _model


def _vector(text: str) -> NDArray[np.float32]:
    return _load().vector(text)


_vector_cached = lru_cache(maxsize=4_096)(_vector)  # every hearer of a text remembers, and so embeds, the same one


class WordLlamaEmbedder:
    """Static word vectors of the `wordllama` package, averaged: no network, no GPU, about 20 µs for 300 characters.

    Word by word instead of whole texts: the cosine with the package's own result is above 0.99999 on 5,725 texts of real
    agents. Line breaks and wide gaps count nothing here, but in the package: one in ten words brings it down to 0.98.
    Of a text longer than 20,000 characters, the beginning is embedded. Texts alike in meaning have cosines from 0.93 on,
    other facts on the same topic mostly up to 0.87.

    Loading takes 0.1 s and 20 MB. On top come 1 kB for each different token that was met (8 MB for 8,000; 32,000 at most)
    and caches that all instances share: 4,096 vectors of 1 kB, which hold on to their texts (2,000 characters at most), and
    32,768 words, about 10 MB when full. The weights' 16 MB are a mapped file, which the system can take back.

    >>> if find_spec("wordllama"):
    ...     near, far, fact = WordLlamaEmbedder().embed(["the bakery shuts", "a new ferry", "the bread shop closes"])
    ...     assert near @ fact > far @ fact
    """

    same_topic = 0.45
    """The cosine from which on two texts share a topic: see `troupelab.text.embed.same_topic`."""

    @property
    def name(self) -> str:
        """Names the embedder beside every figure that depends on it."""
        return f"wordllama-{_DIMS}"

    @property
    def dims(self) -> int:
        """The length of a vector."""
        return _DIMS

    def load(self) -> None:
        """Load the model now, 0.1 s, instead of at the first text.

        Raises:
            MissingPackageError: wordllama is not installed; the message says how to install it.
        """
        _load()

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One unit vector a text, shape (len(texts), 256); a text without words has the zero vector.

        Raises:
            MissingPackageError: wordllama is not installed; the message says how to install it.
        """
        rows = [(_vector_cached if len(text) <= _CACHED_CHARS else _vector)(text) for text in texts]
        return np.array(rows, dtype=np.float32) if rows else np.zeros((0, _DIMS), dtype=np.float32)


def default_embedder() -> Embedder:
    """The best embedder that is installed: wordllama's, which is not loaded yet, or else hashed words.

    >>> default_embedder().dims
    256
    """
    return HashingEmbedder() if _files() is None else WordLlamaEmbedder()
