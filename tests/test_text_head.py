from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from zsrobust import cache, text_head
from zsrobust.errors import ConfigError
from zsrobust.text_head import TextHead


class Letters:
    """Features are letter counts; every call is remembered."""

    def __init__(self, fingerprint: str | None = "letters") -> None:
        self.calls: list[list[str]] = []
        if fingerprint is not None:
            self.text_fingerprint = lambda: fingerprint

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        self.calls.append(list(texts))
        return torch.tensor([[1.0 + text.count(letter) for letter in "acdt{}"] for text in texts])


@pytest.fixture(autouse=True)
def _empty_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_head, "_memory", type(text_head._memory)())


def by_hand(encoder: Letters, name: str, templates: Sequence[str]) -> Tensor:
    rows = [encoder.encode_texts([template.replace("{}", name)])[0] for template in templates]
    mean = torch.stack([row / row.norm() for row in rows]).mean(0)
    return mean / mean.norm()


def test_embeddings_are_the_renormalised_mean_of_unit_features() -> None:
    names, templates = ["cat", "dad", "a"], ["{}", "act: {}", "the {} did"]
    head = TextHead.build(Letters(), names, templates, batch_size=2)
    assert head.class_names == tuple(names)
    assert head.templates == tuple(templates)
    for row, name in zip(head.embeddings, names, strict=True):
        torch.testing.assert_close(row, by_hand(Letters(), name, templates))
    torch.testing.assert_close(head.embeddings.norm(dim=1), torch.ones(3))


def test_logits_are_scaled_cosines_in_float32() -> None:
    head = TextHead.build(Letters(), ["cat", "dog"], ["{}"])
    features = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    expected = 7.0 * torch.nn.functional.cosine_similarity(features[:, None], head.embeddings[None], dim=-1)
    torch.testing.assert_close(head(features, 7.0), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = head(features.bfloat16(), 7.0)
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, head(features.bfloat16().float(), 7.0))


def test_batches_have_the_given_size() -> None:
    encoder = Letters()
    TextHead.build(encoder, ["a", "b", "c"], ["{}", "x {}", "y {}"], batch_size=4)
    assert [len(call) for call in encoder.calls] == [4, 4, 1]
    assert encoder.calls[0] == ["a", "x a", "y a", "b"]


def test_class_names_with_braces_stay_as_they_are() -> None:
    encoder = Letters()
    TextHead.build(encoder, ["{}", "{0}", "{a!r}"], ["a {}."])
    assert encoder.calls == [["a {}.", "a {0}.", "a {a!r}."]]


class Deaf(Letters):
    """It does not tell upper from lower case, and reads twenty letters."""

    name = "deaf"

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        return super().encode_texts([text.lower()[:20] for text in texts])


@pytest.mark.parametrize("block", [2, 1024])
@pytest.mark.parametrize(
    ("names", "twin"),
    [
        (["dad", "cat", "do", "tt", "Cat"], "cat"),
        (["dad", "nothing else than a cat", "tt", "nothing else than a dad"], "nothing else than a cat"),
    ],
)
def test_two_classes_of_the_same_text_are_refused(
    monkeypatch: pytest.MonkeyPatch, block: int, names: list[str], twin: str
) -> None:
    monkeypatch.setattr(text_head, "_BLOCK", block)
    encoder = Deaf()
    head = TextHead.build(encoder, names, ["a {}"])  # captions may be alike
    line = f"^classes '{twin}' and '{names[-1]}' are the same text to model 'deaf', which may ignore case"
    for _ in range(2):  # the second time from memory
        with pytest.raises(ConfigError, match=line):
            TextHead.of_classes(encoder, names, ["a {}"])
    assert torch.equal(TextHead.of_classes(encoder, names[:-1], ["a {}"]).embeddings, head.embeddings[:-1])


def test_the_same_content_is_encoded_once() -> None:
    first, second = Letters(), Letters()
    head = TextHead.build(first, ["cat", "dog"], ["{}"])
    again = TextHead.build(second, ["cat", "dog"], ["{}"])
    assert second.calls == []
    assert torch.equal(head.embeddings, again.embeddings)
    for names, templates, tower in ((["dog", "cat"], ["{}"], "letters"), (["cat", "dog"], ["a {}"], "letters"),
                                    (["cat", "dog"], ["{}"], "other")):  # fmt: skip
        other = Letters(tower)
        TextHead.build(other, names, templates)
        assert other.calls


def test_an_encoder_without_a_fingerprint_is_never_cached(tmp_path: Path) -> None:
    encoder = Letters(None)
    for _ in range(2):
        TextHead.build(encoder, ["cat"], ["{}"], cache=tmp_path)
    assert len(encoder.calls) == 2
    assert list(tmp_path.iterdir()) == []


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_head, "_REMEMBERED", 2)
    monkeypatch.setenv("ZSROBUST_CACHE", "off")
    encoder = Letters()
    for name in ("a", "b", "a", "c", "a", "b"):  # a stays because it was used last, b has to go for c
        TextHead.build(encoder, [name], ["{}"])
    assert [call[0] for call in encoder.calls] == ["a", "b", "c", "b"]


def test_what_one_process_encoded_another_reads(own_cache: Path) -> None:
    head = TextHead.build(Letters(), ["cat", "dog"], ["{}", "a {}"])
    (file,) = (own_cache / "text").iterdir()
    text_head._memory.clear()
    from_disk = Letters()
    assert torch.equal(TextHead.build(from_disk, ["cat", "dog"], ["{}", "a {}"]).embeddings, head.embeddings)
    assert from_disk.calls == []
    text_head._memory.clear()
    other = Letters("other")
    TextHead.build(other, ["cat", "dog"], ["{}", "a {}"])
    assert len(other.calls) == 1
    assert len(list(file.parent.iterdir())) == 2


@pytest.mark.parametrize("damage", ["cut", "flipped", "other"])
def test_a_damaged_file_is_computed_again_and_replaced(own_cache: Path, damage: str) -> None:
    head = TextHead.build(Letters(), ["cat", "dog"], ["{}"])
    (file,) = (own_cache / "text").iterdir()
    whole = file.read_bytes()
    at = whole.index(head.embeddings.numpy().tobytes())
    damaged = {"cut": whole[:20], "flipped": whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :], "other": b"{}"}
    file.write_bytes(damaged[damage])
    text_head._memory.clear()
    encoder = Letters()
    assert torch.equal(TextHead.build(encoder, ["cat", "dog"], ["{}"]).embeddings, head.embeddings)
    assert len(encoder.calls) == 1
    assert file.read_bytes() == whole
    assert list(file.parent.iterdir()) == [file]


def test_without_a_cache_folder_nothing_is_written(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSROBUST_CACHE", "off")
    for _ in range(2):
        text_head._memory.clear()
        encoder = Letters()
        TextHead.build(encoder, ["cat"], ["{}"])
        assert len(encoder.calls) == 1
    assert not own_cache.exists()


def test_a_folder_that_cannot_be_written_is_one_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "cache"
    with pytest.warns(UserWarning, match=r"the cache folder .* cannot be used") as caught:
        head = TextHead.build(Letters(), ["cat"], ["{}"], cache=folder)
    assert len(caught) == 1
    TextHead.build(Letters(), ["dog"], ["{}"], cache=folder)  # a second warning would be an error
    torch.testing.assert_close(head.embeddings[0], by_hand(Letters(), "cat", ["{}"]))


def test_heads_share_the_bound_of_the_folder(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSROBUST_CACHE_BYTES", "10kB")  # two files: each takes a block of 4096 bytes
    for name in "abcd":
        TextHead.build(Letters(), [name], ["{}"])
    kept = cache.kept(own_cache)
    assert sum(file.bytes for file in kept) <= 10_000
    text_head._memory.clear()
    last = Letters()
    TextHead.build(last, ["d"], ["{}"])
    assert last.calls == []


@pytest.mark.parametrize(("batch", "templates", "width"), [(5, 3, 6), (256, 80, 64), (7, 80, 512), (3, 7, 5)])
def test_summing_class_by_class_changes_no_bit(batch: int, templates: int, width: int) -> None:
    class Table:
        def __init__(self) -> None:
            self.rows = iter(features.split(batch))

        def encode_texts(self, texts: Sequence[str]) -> Tensor:
            return next(self.rows)

    names, patterns = [f"n{i}" for i in range(11)], [f"{i} {{}}" for i in range(templates)]
    features = torch.randn(11 * templates, width, generator=torch.Generator().manual_seed(width))
    units = torch.nn.functional.normalize(features, dim=-1).view(11, templates, width)
    expected = torch.nn.functional.normalize(units.mean(dim=1), dim=-1)
    assert torch.equal(TextHead.build(Table(), names, patterns, batch_size=batch).embeddings, expected)


def test_a_head_cannot_be_changed_and_moves_by_copy() -> None:
    head = TextHead.build(Letters(), ["cat"], ["{}"])
    with pytest.raises(AttributeError):
        head.class_names = ("dog",)
    assert head.to("meta").embeddings.device.type == "meta"
    assert head.embeddings.device.type == "cpu"


@pytest.mark.parametrize(
    ("names", "templates", "message"),
    [
        (["cat", "dog", "cat"], ["{}"], "class name 'cat' is given more than once"),
        ([], ["{}"], "class names must be a non-empty list"),
        ("cat", ["{}"], "class names must be a non-empty list of texts, not 'cat'"),
        (["cat"], [], "templates must be a non-empty list"),
        (["cat"], "a {}", "templates must be a non-empty list of texts, not 'a {}'"),
        (["cat"], ["a photo"], "template 'a photo' must contain {} exactly once"),
        (["cat"], ["{} and {}"], "template '{} and {}' must contain {} exactly once"),
        (["cat"], ["a {c}"], "template 'a {c}' must contain {} exactly once"),
    ],
)
def test_wrong_texts_are_refused(names: list[str], templates: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TextHead.build(Letters(), names, templates)
    assert message in str(caught.value)


def test_batch_size_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="batch_size 0 must be at least 1"):
        TextHead.build(Letters(), ["cat"], ["{}"], batch_size=0)
