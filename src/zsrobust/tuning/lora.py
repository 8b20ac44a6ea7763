"""Low-rank adapters: small factors beside frozen weights, merged into them at the end.

Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang, Chen: *LoRA: Low-Rank Adaptation of Large Language Models*, 2021,
arXiv 2106.09685, section 4.1. For a linear layer with frozen weight W (d × k), a rank r and a constant α:

    y = W x + (α / r) · B A x        A: (r × k), Gaussian at the start;  B: (d × r), zero at the start

so that training starts from the given model exactly. The variance of A is ours, 1/k: A x then has the size of an entry
of x. Layers keep their bias. The factors are float32 and sit in the visual tower under ``….q_proj.lora_a`` and
``….q_proj.lora_b``, beside ``….q_proj.weight``, which keeps its name and its bits until the end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zsrobust.encoders.base import Encoder
from zsrobust.encoders.huggingface import HuggingFaceEncoder
from zsrobust.errors import ConfigError, ModelError, UnknownName
from zsrobust.randomness import generator
from zsrobust.tuning.base import Tuning
from zsrobust.tuning.weights import copied, trainable, whole

TARGETS = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "out": "self_attn.out_proj",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}
"""Short name → linear layer of a block of transformers' CLIP and SigLIP."""

_FACTORS = (".lora_a", ".lora_b")


@dataclass(frozen=True)
class LoRA(Tuning):
    """Adapters in every transformer block of the visual tower of transformers' CLIP or SigLIP.

    What comes before and after the blocks (embeddings, SigLIP's pooling head) gets none.

    Attributes:
        rank: r; 1 or more.
        alpha: α, above 0; None: as large as the rank.
        targets: Which layers of a block, among q, k, v, out, fc1 and fc2; also as one text, ``"q,v"``.
    """

    rank: int = 8
    alpha: float | None = None
    targets: Sequence[str] = ("q", "v")
    name: str = "lora"

    def __post_init__(self) -> None:
        if not whole(self.rank) or self.rank < 1:
            raise ConfigError(f"{self.name}: rank must be a whole number of at least 1, not {self.rank!r}")
        if self.alpha is not None and not (_number(self.alpha) and 0 < self.alpha < math.inf):
            raise ConfigError(f"{self.name}: alpha must be a number above 0, not {self.alpha!r}")
        given = self.targets.split(",") if isinstance(self.targets, str) else self.targets
        if not isinstance(given, list | tuple):
            raise ConfigError(f"{self.name}: targets must be some of {', '.join(TARGETS)}, not {given!r}")
        targets = tuple(str(target).strip() for target in given)
        for target in targets:
            if target not in TARGETS:
                raise UnknownName(f"{self.name} target", target, TARGETS)
        if not targets or len(set(targets)) < len(targets):
            raise ConfigError(f"{self.name}: targets must be some of {', '.join(TARGETS)}, each once")
        object.__setattr__(self, "targets", tuple(target for target in TARGETS if target in targets))

    @property
    def scale(self) -> float:
        """α / r."""
        return (self.rank if self.alpha is None else self.alpha) / self.rank

    def prepare(self, encoder: Encoder, *, seed: int) -> tuple[Encoder, dict[str, nn.Parameter]]:
        """A copy with factors in its blocks, which alone are trained; see :class:`~zsrobust.tuning.base.Tuning`.

        Each A is drawn from a generator of its own, keyed by seed and layer: it does not depend on other targets.

        Raises:
            ModelError: not transformers' CLIP or SigLIP.
            ConfigError: the rank is larger than a layer.
        """
        if not isinstance(encoder, HuggingFaceEncoder):
            raise ModelError(
                f"'{encoder.name}' is a {type(encoder).__name__}: low-rank adapters go into the visual tower of "
                "transformers' CLIP and SigLIP only"
            )
        copy = copied(encoder)
        for index, block in enumerate(copy.model.vision_model.encoder.layers):
            for target in self.targets:
                parent, _, last = TARGETS[target].rpartition(".")
                linear = block.get_submodule(TARGETS[target])
                if type(linear) is not nn.Linear:
                    raise ModelError(f"'{encoder.name}': {TARGETS[target]} is a {type(linear).__name__}, not a Linear")
                if self.rank > min(linear.in_features, linear.out_features):
                    shape = f"{linear.out_features} × {linear.in_features}"
                    raise ConfigError(f"{self.name}: rank {self.rank} is too large for {TARGETS[target]} ({shape})")
                key = (seed, "lora", index, target)
                setattr(block.get_submodule(parent), last, LowRank(linear, self.rank, self.scale, key))
        return copy, trainable(pair for pair in copy.visual_parameters() if pair[0].endswith(_FACTORS))

    def finish(self, adapted: Encoder) -> Encoder:
        """A copy with W + (α / r) · B A in place of W and no factors: exactly the tensor names of the model given."""
        merged = copied(adapted)
        layers = [(name, layer) for name, layer in merged.model.named_modules() if isinstance(layer, LowRank)]
        for name, layer in layers:
            parent, _, last = name.rpartition(".")
            setattr(merged.model.get_submodule(parent), last, layer.merged())
        return merged  # type: ignore[no-any-return]

    def describe(self) -> Mapping[str, object]:
        """Rank, α and targets."""
        alpha = float(self.rank if self.alpha is None else self.alpha)
        return {"name": self.name, "rank": self.rank, "alpha": alpha, "targets": list(self.targets)}


class LowRank(nn.Linear):
    """A linear layer with factors beside its weight: (…, k) → (…, d).

    Args:
        linear: Its weight and bias are taken over, not copied.
        rank: r.
        scale: α / r.
        key: Of the generator that draws A.

    Attributes:
        lora_a: (r, k).
        lora_b: (d, r), zero.
    """

    def __init__(self, linear: nn.Linear, rank: int, scale: float, key: tuple[str | int, ...]) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        self.weight, self.bias, self.scale = linear.weight, linear.bias, scale
        start = torch.randn(rank, linear.in_features, generator=generator(*key)) / math.sqrt(linear.in_features)
        self.lora_a = nn.Parameter(start.to(linear.weight))
        self.lora_b = nn.Parameter(linear.weight.new_zeros(linear.out_features, rank))
        self.train(linear.training)

    def forward(self, x: Tensor) -> Tensor:
        """W x + bias + (α / r) · B A x."""
        low = functional.linear(functional.linear(x, self.lora_a), self.lora_b)
        return super().forward(x) + self.scale * low

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """An ordinary layer with W + (α / r) · B A: summed in float64 on the CPU, so that it is rounded only once."""
        weight, a, b = (tensor.cpu().double() for tensor in (self.weight, self.lora_a, self.lora_b))
        plain = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        plain.weight = nn.Parameter((weight + self.scale * (b @ a)).to(self.weight), requires_grad=False)
        plain.bias = self.bias
        return plain.train(self.training)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
