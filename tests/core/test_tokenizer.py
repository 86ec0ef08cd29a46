"""The tokenizer gives the numbers that transformers gives, pads as each family does, and says what is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from controlnet_core.config import CLIP_TINY
from controlnet_core.errors import TokenizerError
from controlnet_core.keyed import keyed_generator
from controlnet_core.tokenizer import PromptTokenizer, PromptTruncatedWarning, find_tokenizer
from controlnet_core.toy.scenes import captions, draw_scenes
from controlnet_core.toy.vocabulary import write_vocabulary

LENGTH = CLIP_TINY.context_length
PROMPTS = [
    "",
    "A  RED circle\ton a blue background",
    "don't stop, they'll (red:1.3) [12]",
    "Zürich, naïve 猫 🎨 e\u0301",
    "x" * 200,
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocabulary")
    write_vocabulary(path)
    return path


def test_the_numbers_are_those_of_transformers(folder: Path) -> None:
    reference = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    prompts = PROMPTS[:-1] + captions(draw_scenes(50, keyed_generator("test")))
    expected = reference(prompts, padding="max_length", max_length=LENGTH, truncation=True).input_ids
    assert PromptTokenizer(folder, CLIP_TINY)(prompts).ids.tolist() == expected


def test_the_words_of_the_captions_are_one_token_each(folder: Path) -> None:
    tokens = PromptTokenizer(folder, CLIP_TINY)(["a red circle on a blue background"])
    assert tokens.ends.tolist() == [8]


def test_open_clip_pads_with_zeros_after_the_same_prompt(folder: Path) -> None:
    end, zero = (PromptTokenizer(folder, replace(CLIP_TINY, pad_token=pad))(["red"]) for pad in ("end", "zero"))
    assert end.ids[0, :3].tolist() == zero.ids[0, :3].tolist()
    assert set(end.ids[0, 3:].tolist()) == {end.ids[0, 2].item()}
    assert set(zero.ids[0, 3:].tolist()) == {0}


def test_a_prompt_that_is_too_long_is_cut_with_a_warning(folder: Path) -> None:
    with pytest.warns(PromptTruncatedWarning, match="not read: '.*last'"):
        tokens = PromptTokenizer(folder, CLIP_TINY)(["red " * 80 + "last"])
    assert tokens.ids.shape == (1, LENGTH)
    assert tokens.ends.tolist() == [LENGTH - 1]


def test_the_vocabulary_is_the_same_each_time(folder: Path, tmp_path: Path) -> None:
    write_vocabulary(tmp_path)
    for name in ("vocab.json", "merges.txt"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_the_shipped_vocabulary_is_the_one_that_the_script_writes(folder: Path) -> None:
    shipped = Path(write_vocabulary.__code__.co_filename).parent
    for name in ("vocab.json", "merges.txt"):
        assert (shipped / name).read_text(encoding="utf-8") == (folder / name).read_text(encoding="utf-8")


def test_missing_broken_and_foreign_files_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"vocab\.json"):
        PromptTokenizer(tmp_path / "nothing", CLIP_TINY)
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(TokenizerError, match="that are not CLIP's"):
        PromptTokenizer(tmp_path, CLIP_TINY)
    with pytest.raises(TokenizerError, match="at most 100"):
        PromptTokenizer(folder, replace(CLIP_TINY, vocabulary=100))


def test_a_tokenizer_is_found_next_to_the_file_and_in_the_cache(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    checkpoint = tmp_path / "models" / "base.safetensors"
    with pytest.raises(TokenizerError, match="huggingface-cli download"):
        find_tokenizer(checkpoint)
    snapshot = tmp_path / "hub" / "models--openai--clip-vit-large-patch14" / "snapshots" / "abc"
    for place in (snapshot, checkpoint.parent / "tokenizer"):
        place.mkdir(parents=True)
        for name in ("vocab.json", "merges.txt"):
            (place / name).write_bytes((folder / name).read_bytes())
        assert find_tokenizer(checkpoint) == place
    assert find_tokenizer(checkpoint, folder) == folder
