"""Parts of the visual tower: which they are, and that nothing else changes, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.encoders.small import save_clip, save_siglip
from tests.fakes import Toy, task

from zsrobust.adaptation import adapt
from zsrobust.attacks.pgd import PGD
from zsrobust.encoders.huggingface import HuggingFaceEncoder, from_folder
from zsrobust.errors import ConfigError, ModelError
from zsrobust.threat import Threat
from zsrobust.tuning import TUNINGS
from zsrobust.tuning.base import Tuning
from zsrobust.tuning.lora import LoRA
from zsrobust.tuning.weights import Full, LastBlocks, LayerNorms

BLOCK = 16  # tensors of one block: 4 + 2 linear layers and 2 LayerNorms, each with a bias


@pytest.fixture(params=[save_clip, save_siglip], ids=["clip", "siglip"])
def encoder(request: pytest.FixtureRequest, tmp_path: Path) -> HuggingFaceEncoder:
    save: Callable[[Path], Path] = request.param
    return from_folder(save(tmp_path / "model"))


def after(encoder: HuggingFaceEncoder) -> set[str]:
    """What comes after the blocks, written down."""
    norm = {f"vision_model.post_layernorm.{part}" for part in ("weight", "bias")}
    if encoder.model.config.model_type == "clip":
        return norm | {"visual_projection.weight"}
    linear = ("layernorm.", "mlp.fc1.", "mlp.fc2.", "attention.out_proj.", "attention.in_proj_")
    head = {f"{layer}{part}" for layer in linear for part in ("weight", "bias")} | {"probe"}
    return norm | {f"vision_model.head.{part}" for part in head}


@pytest.mark.parametrize("count", [1, 2])
def test_the_last_blocks_and_what_comes_after_them(encoder: HuggingFaceEncoder, count: int) -> None:
    _, chosen = LastBlocks(count).prepare(encoder, seed=0)
    blocks = {name for name in chosen if ".layers." in name}
    assert {name.split(".")[3] for name in blocks} == {"0", "1"} - ({"0"} if count == 1 else set())
    assert len(blocks) == count * BLOCK
    assert chosen.keys() - blocks == after(encoder)
    assert list(chosen) == sorted(chosen)


def test_all_layer_norms_of_the_visual_tower_alone(encoder: HuggingFaceEncoder) -> None:
    _, chosen = LayerNorms().prepare(encoder, seed=0)
    ends = ("layer_norm1", "layer_norm2", "pre_layrnorm", "post_layernorm", "head.layernorm")
    expected = {name for name, _ in encoder.visual_parameters() if name.rpartition(".")[0].endswith(ends)}
    assert chosen.keys() == expected
    assert len(chosen) == 2 * (2 * 2 + 2)


@pytest.mark.parametrize("way", [LastBlocks(), LayerNorms(), LoRA(2, targets="q,fc2")], ids=lambda way: way.name)
def test_a_copy_is_trained_and_nothing_but_the_chosen_changes(encoder: HuggingFaceEncoder, way: Tuning) -> None:
    encoder.requires_grad_(True)  # a caller may have left it so
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    copy, chosen = way.prepare(encoder, seed=0)
    assert {id(p) for p in copy.parameters() if p.requires_grad} == {id(p) for p in chosen.values()}  # type: ignore[attr-defined]
    assert not {id(p) for p in chosen.values()} & {id(p) for p in encoder.parameters()}
    changing = set(chosen)
    if isinstance(way, LoRA):
        changing = {f"{name.rpartition('.')[0]}.weight" for name in chosen}
    adapted = adapt(
        encoder, task=task(8), attack=PGD(Threat("linf", "8/255"), 1), tuning=way, epochs=2, batch_size=4, lr=0.5,
        progress=False,
    )  # fmt: skip
    assert isinstance(adapted, HuggingFaceEncoder)
    state = adapted.state_dict()
    assert list(state) == list(before)
    changed = {name for name in before if not torch.equal(state[name], before[name])}
    assert changed <= {f"model.{name}" for name in changing}
    still = {name for name in changing if f"model.{name}" not in changed}
    assert all(name.endswith("k_proj.bias") for name in still)  # a softmax does not see the bias of its keys
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    assert not any(parameter.requires_grad for parameter in adapted.parameters())
    assert adapted.provenance["adaptation"]["tuning"] == way.describe()  # type: ignore[index]


@pytest.mark.parametrize("way", [LastBlocks(), LayerNorms(), LoRA()], ids=lambda way: way.name)
def test_an_encoder_without_such_parts_is_one_line(way: Tuning) -> None:
    with pytest.raises(ModelError, match=r"^'toy' [^\n]*$"):
        way.prepare(Toy(), seed=0)


def test_counts_that_are_none(encoder: HuggingFaceEncoder) -> None:
    for count in (0, -1, True, 1.0, "1"):
        with pytest.raises(ConfigError, match="count must be a whole number of at least 1, not"):
            LastBlocks(count)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="count = 3, but 'model' has 2 blocks"):
        LastBlocks(3).prepare(encoder, seed=0)


def test_they_are_found_by_name_and_say_what_they_are() -> None:
    assert TUNINGS["last-blocks"](count=2).describe() == {"name": "last-blocks", "count": 2}
    assert TUNINGS["layernorm"]().describe() == {"name": "layernorm"}
    assert all(isinstance(TUNINGS[name](), Tuning) for name in ("last-blocks", "layernorm", "lora"))


class Fixed(Toy):
    """Nobody can give it another name."""

    name = property(lambda self: "fixed")


def test_an_encoder_that_cannot_be_renamed_is_refused_before_it_is_trained() -> None:
    encoder = Toy()
    encoder.__class__ = Fixed
    with pytest.raises(ModelError, match=r"^'fixed' cannot be adapted: its name cannot be set, and the adapted model"):
        Full().prepare(encoder, seed=0)
