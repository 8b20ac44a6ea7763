"""open_clip's layout: bit-identical there and back, and what it cannot hold is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.encoders.small import save_clip

from zsrobust.encoders import openclip
from zsrobust.encoders.huggingface import HuggingFaceEncoder, from_folder
from zsrobust.errors import ModelError


@pytest.fixture(params=["quick_gelu", "gelu"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    found = from_folder(save_clip(tmp_path / "small")).model
    for part in (found.config.vision_config, found.config.text_config):
        part.hidden_act = request.param
    return found


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        torch.equal(left[name], right[name]) and left[name].shape == right[name].shape for name in left
    )


def with_text(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As CustomTextCLIP stores the text tower; ``logit_scale`` and ``visual.`` stay where they are."""
    return {k if k.startswith(("visual.", "logit_")) else f"text.{k}": v for k, v in state.items()}


def test_there_and_back_is_bit_identical(model: Any) -> None:
    state = model.state_dict()
    flat = openclip.to_openclip(state, model.config)
    assert flat["visual.proj"].shape == (16, 12)
    assert flat["visual.transformer.resblocks.1.attn.in_proj_weight"].shape == (48, 16)
    torch.testing.assert_close(flat["text_projection"].t(), state["text_projection.weight"], rtol=0, atol=0)
    assert all(tensor.is_contiguous() for tensor in flat.values())
    parallel = {f"module.{name}": tensor for name, tensor in flat.items()}
    for layout, wanted in ((flat, "flat"), (with_text(flat), "text."), (parallel, "flat")):
        back, facts = openclip.from_openclip(layout)
        assert same(back, state)
        assert facts["layout"] == wanted
        assert same(openclip.to_openclip(back, model.config), flat)
    config = openclip.clip_config(openclip.model_cfg(model.config), model.config.vision_config.hidden_act)
    for part in ("vision_config", "text_config"):
        old, new = getattr(model.config, part), getattr(config, part)
        for key in ("hidden_act", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
            assert getattr(old, key) == getattr(new, key), key
    assert config.text_config.eos_token_id == model.config.text_config.eos_token_id
    assert openclip.model_cfg(config) == openclip.model_cfg(model.config)


@pytest.mark.parametrize(("width", "inner"), [(704, 960), (704, 2816), (1408, 6144), (1664, 8192), (16, 32)])
def test_the_width_of_an_mlp_survives_its_ratio(width: int, inner: int) -> None:
    """open_clip takes int(width * mlp_ratio), and int(704 * (960 / 704)) is 959."""
    ratio = openclip.mlp_ratio(width, inner)
    assert int(width * ratio) == inner
    assert ratio == pytest.approx(inner / width, rel=1e-15)


def test_a_model_cfg_gives_its_mlp_back(clip: HuggingFaceEncoder) -> None:
    config = clip.model.config
    for part in (config.vision_config, config.text_config):
        part.hidden_size, part.num_attention_heads, part.intermediate_size = 704, 11, 960
    cfg = openclip.model_cfg(config)
    back = openclip.clip_config(cfg, "quick_gelu")
    assert (back.vision_config.intermediate_size, back.text_config.intermediate_size) == (960, 960)


def test_a_visual_tower_alone_there_and_back(model: Any) -> None:
    state = {k: v for k, v in model.state_dict().items() if k.startswith(("vision_model.", "visual_projection."))}
    bare = openclip.visual_to_openclip(state)
    assert not any(name.startswith("visual.") for name in bare)
    assert same(openclip.visual_from_openclip(bare), state)
    assert same(openclip.visual_from_openclip({f"module.{k}": v for k, v in bare.items()}), state)


def test_the_order_is_query_key_value(clip: HuggingFaceEncoder) -> None:
    """torch's own attention on open_clip's matrices gives what transformers gives on its three."""
    state = clip.model.state_dict()
    bare = openclip.visual_to_openclip(
        {k: v for k, v in state.items() if k.startswith(("vision_model.", "visual_projection."))}
    )
    block = torch.nn.MultiheadAttention(16, 2, batch_first=True)
    prefix = "transformer.resblocks.0.attn."
    block.load_state_dict({k.removeprefix(prefix): v for k, v in bare.items() if k.startswith(prefix)})
    tokens = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    ours, _ = clip.model.vision_model.encoder.layers[0].self_attn(tokens)
    torch.testing.assert_close(block(tokens, tokens, tokens, need_weights=False)[0], ours, atol=1e-6, rtol=1e-6)


BREAKS = [
    (lambda s: s.pop("visual.proj"), "the visual tower lacks proj"),
    (lambda s: s.pop("token_embedding.weight"), "the text tower lacks token_embedding.weight"),
    (lambda s: s.pop("logit_scale"), "have no logit_scale"),
    (lambda s: s.update({"visual.extra": torch.zeros(1)}), "tensors that a ViT CLIP does not have (extra)"),
    (lambda s: s.pop("visual.transformer.resblocks.0.ln_1.bias"), "the visual tower lacks transformer.resblocks.0.ln"),
    (lambda s: s.update({"visual.trunk.stem.0.weight": torch.zeros(1)}), "timm model (ConvNeXt"),
    (lambda s: s.update({"text_decoder.x": torch.zeros(1)}), "it is a CoCa"),
    (lambda s: s.update({"visual.attnpool.q_proj.weight": torch.zeros(1)}), "is a ResNet"),
    (lambda s: s.update({"visual.blocks.0.x": torch.zeros(1)}), "is an EVA"),
    (lambda s: s.update({"logit_bias": torch.zeros(1)}), "trained as SigLIP"),
    (lambda s: [s.pop(k) for k in list(s) if not k.startswith(("visual.", "logit"))], "no text tower"),
    (lambda s: [s.pop(k) for k in list(s) if k.startswith("visual.")], "no tensor of a visual tower"),
]


@pytest.mark.parametrize(("damage", "message"), BREAKS, ids=[text for _, text in BREAKS])
def test_other_architectures_and_holes_are_named(clip: HuggingFaceEncoder, damage: Any, message: str) -> None:
    state = openclip.to_openclip(clip.model.state_dict(), clip.model.config)
    damage(state)
    with pytest.raises(ModelError) as caught:
        openclip.from_openclip(state)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"vision_cfg": {"timm_model_name": "convnext_base"}}, "timm model (convnext_base)"),
        ({"vision_cfg": {"layers": [3, 4, 6, 3]}}, "is a ResNet"),
        ({"text_cfg": {"hf_model_name": "xlm-roberta-base"}}, "text tower is a transformers model of its own"),
        ({"multimodal_cfg": {}}, "it is a CoCa"),
        ({"vision_cfg": {"no_ln_pre": True}}, "vision_cfg has no_ln_pre: True"),
        ({"vision_cfg": {"act_kwargs": {"approximate": "tanh"}}}, "vision_cfg has act_kwargs"),
        ({"vision_cfg": {"head_width": 0}}, "cannot be used"),
        ({"embed_dim": "x"}, "cannot be used: ValueError"),
        ({"vision_cfg": {"width": 100}, "text_cfg": {"heads": 7}}, "width 512 cannot have 7 heads"),
        ({"init_logit_bias": -10}, "trained as SigLIP"),
    ],
)
def test_configurations_of_other_architectures_are_named(cfg: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError) as caught:
        openclip.clip_config({"embed_dim": 512, **cfg}, "gelu")
    assert message in str(caught.value)
