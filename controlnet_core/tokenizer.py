"""From prompts to CLIP's token numbers, with each family's padding rule."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from torch import Tensor

from .config import TextEncoderConfig
from .errors import UNREADABLE, TokenizerError

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
PIECES = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""
HUB_NAMES = ("openai/clip-vit-large-patch14", "stable-diffusion-v1-5/stable-diffusion-v1-5")


class PromptTruncatedWarning(UserWarning):
    """A prompt is longer than the text encoder reads; its end has no effect."""


@dataclass(frozen=True)
class Tokens:
    """Prompts as token numbers.

    Attributes:
        ids: Token numbers, shape (B, context_length): start, the prompt, end, padding.
        ends: The position of each prompt's end token, shape (B,).
    """

    ids: Tensor
    ends: Tensor


class PromptTokenizer:
    """CLIP's byte-level byte pair encoding.

    Arguments:
        folder: Where `vocab.json` and `merges.txt` are.
        config: The text encoder the tokens are for: its length and padding rule.

    Raises:
        TokenizerError: If the files are missing, broken, or of another vocabulary than the encoder's.
    """

    def __init__(self, folder: Path, config: TextEncoderConfig) -> None:
        vocabulary, merges = _read(folder)
        if len(vocabulary) > config.vocabulary:
            raise TokenizerError(
                found=f"{len(vocabulary)} tokens in {folder / 'vocab.json'}",
                expected=f"at most {config.vocabulary}, the text encoder's vocabulary",
                do="give the tokenizer that belongs to this base",
            )
        self.config = config
        self._tokenizer = clip_tokenizer(vocabulary, merges)
        self._start, self._end = vocabulary[START], vocabulary[END]

    def __call__(self, prompts: Sequence[str]) -> Tokens:
        """Encode prompts; one that is too long is cut with a `PromptTruncatedWarning`."""
        length = self.config.context_length
        padding = self._end if self.config.pad_token == "end" else 0
        rows, ends = [], []
        for prompt in prompts:
            ids = self._tokenizer.encode(prompt, add_special_tokens=False).ids
            if len(ids) > length - 2:
                lost = self._tokenizer.decode(ids[length - 2 :])
                warnings.warn(
                    f"the prompt has {len(ids)} tokens and the text encoder reads {length - 2}; not read: {lost!r}",
                    PromptTruncatedWarning,
                    stacklevel=2,
                )
                ids = ids[: length - 2]
            ends.append(len(ids) + 1)
            rows.append([self._start, *ids, self._end] + [padding] * (length - 2 - len(ids)))
        return Tokens(torch.tensor(rows).reshape(-1, length), torch.tensor(ends))


def clip_tokenizer(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    """Assemble CLIP's tokenizer: lower case, split into words, bytes as letters, merged pair by pair."""
    tokenizer = Tokenizer(
        BPE(vocab=vocabulary, merges=merges, continuing_subword_prefix="", end_of_word_suffix=WORD_END, unk_token=END)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.BPEDecoder(suffix=WORD_END)
    return tokenizer


def _read(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Read a vocabulary and its merges."""
    try:
        vocabulary: dict[str, int] = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    except (OSError, *UNREADABLE) as error:
        raise TokenizerError(
            found=f"{folder}: {error}",
            expected="a folder with CLIP's vocab.json and merges.txt",
            do="give the `tokenizer` folder of a diffusers model, or ComfyUI's `comfy/sd1_tokenizer`",
        ) from error
    pairs = [line.split() for line in lines if line.strip() and not line.startswith("#version")]
    if START not in vocabulary or END not in vocabulary or any(len(pair) != 2 for pair in pairs):
        raise TokenizerError(
            found=f"files in {folder} that are not CLIP's",
            expected=f"a vocab.json with {START} and {END}, and a merges.txt with two parts a line",
            do="give the `tokenizer` folder of a Stable Diffusion model",
        )
    return vocabulary, [(first, second) for first, second in pairs]


def find_tokenizer(checkpoint: Path, given: Path | None = None) -> Path:
    """Find the folder of a real family's tokenizer; all of Stable Diffusion shares CLIP's.

    Arguments:
        checkpoint: The base's file or diffusers folder; a tokenizer in or next to it is used.
        given: The folder that the user names, which comes first.

    Raises:
        TokenizerError: If there is none.
    """
    if given is not None:
        return given
    for folder in _candidates(checkpoint):
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            return folder
    raise TokenizerError(
        found=f"no CLIP tokenizer for {checkpoint}",
        expected="vocab.json and merges.txt in a folder `tokenizer` next to it, or in the Hugging Face cache",
        do=f"run `huggingface-cli download {HUB_NAMES[0]} vocab.json merges.txt`, or name a folder that has them "
        "(a diffusers model's `tokenizer`, ComfyUI's `comfy/sd1_tokenizer`)",
    )


def _candidates(checkpoint: Path) -> Iterator[Path]:
    """Where a tokenizer may be: in a diffusers folder, next to a file, in the hub's cache."""
    yield checkpoint / "tokenizer"
    yield checkpoint.parent / "tokenizer"
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub")).expanduser()
    for name in HUB_NAMES:
        for snapshot in sorted((cache / f"models--{name.replace('/', '--')}" / "snapshots").glob("*")):
            yield snapshot
            yield snapshot / "tokenizer"
