"""The small base's own CLIP vocabulary, learned from the captions of the shapes generator."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from ..config import CLIP_TINY
from ..keyed import keyed_generator
from ..tokenizer import END, START, WORD_END, clip_tokenizer
from .scenes import captions, draw_scenes

CAPTIONS = 20_000


def write_vocabulary(folder: Path) -> None:
    """Write `vocab.json` and `merges.txt` in CLIP's order: bytes, bytes that end a word, merges, start and end.

    Every byte is a token, so any text can be encoded; the words of the captions are one token each.
    """
    letters = sorted(ByteLevel.alphabet())
    singles = letters + [letter + WORD_END for letter in letters]
    merges = _learn_merges(singles, CLIP_TINY.vocabulary - len(singles) - 2)
    tokens = singles + ["".join(pair) for pair in merges] + [START, END]
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = json.dumps({token: number for number, token in enumerate(tokens)}, ensure_ascii=False)
    (folder / "vocab.json").write_text(vocabulary + "\n", encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _learn_merges(singles: list[str], most: int) -> list[tuple[str, str]]:
    """Learn at most `most` merges from captions."""
    reader = clip_tokenizer({token: number for number, token in enumerate([*singles, START, END])}, [])
    learner = Tokenizer(BPE(unk_token=END))
    learner.normalizer, learner.pre_tokenizer = reader.normalizer, reader.pre_tokenizer
    trainer = BpeTrainer(
        vocab_size=len(singles) + most,
        initial_alphabet=[single for single in singles if len(single) == 1],
        end_of_word_suffix=WORD_END,
        show_progress=False,
    )
    learner.train_from_iterator(captions(draw_scenes(CAPTIONS, keyed_generator("vocabulary"))), trainer)
    pairs: list[list[str]] = json.loads(learner.to_str())["model"]["merges"]
    return [(first, second) for first, second in pairs][:most]
