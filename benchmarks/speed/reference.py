"""The plain reference: an attack step as the code published with the TeCoA paper computes it, and bare training passes.

Of that code (cvlab-columbia/ZSRobust4FoundationModel: replace/model.py:372-382, models/model.py:27-34, attacks.py): the
text tower runs on the prompts of all classes in every step, the mean loss is differentiated with respect to everything
that needs a gradient, weights too, and every example gets every step. Here in float32; there it was half precision.
Written from that description.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from zsrobust.encoders.huggingface import HuggingFaceEncoder


def perturbed(
    encoder: HuggingFaceEncoder,
    tokens: Tensor,
    pixels: Tensor,
    labels: Tensor,
    *,
    start: Tensor,
    eps: float,
    step_size: float,
    steps: int,
) -> Tensor:
    """PGD in an L∞ ball, the text tower in every step and weight gradients on.

    Args:
        encoder: transformers' CLIP, of the images' size; what of it needs a gradient gets one.
        tokens: (C, N) of the prompts.
        pixels: (B, 3, H, W) in [0, 1].
        labels: (B,) int64.
        start: (B, 3, H, W) first points.
        eps: Radius in pixel range [0, 1].
        step_size: Likewise.
        steps: All of them, for all examples.

    Returns:
        (B, 3, H, W), the last points.
    """
    model: Any = encoder.model
    delta = (start - pixels).clone().requires_grad_(True)
    for _ in range(steps):
        features = _features(model.get_image_features(pixel_values=(pixels + delta - encoder.mean) / encoder.std))
        texts = _features(model.get_text_features(input_ids=tokens))
        logits = model.logit_scale.exp() * features @ texts.T
        cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
        assert delta.grad is not None
        with torch.no_grad():
            delta += step_size * delta.grad.sign()
            delta.clamp_(-eps, eps)
            delta.copy_((pixels + delta).clamp(0, 1) - pixels)
            delta.grad.zero_()
    return (pixels + delta).detach()


def plain(encoder: HuggingFaceEncoder) -> HuggingFaceEncoder:
    """A copy whose patch embedding is torch's convolution, as transformers has it: ours has a faster gradient."""
    found = encoder.copy()
    embeddings = found.model.vision_model.embeddings
    own = embeddings.patch_embedding
    embeddings.patch_embedding = nn.Conv2d(
        own.in_channels, own.out_channels, own.kernel_size, own.stride, bias=own.bias is not None, device="meta"
    )
    embeddings.patch_embedding.weight, embeddings.patch_embedding.bias = own.weight, own.bias
    return found


def _features(output: Any) -> Tensor:
    return normalize(getattr(output, "pooler_output", output), dim=-1)


class BareTraining:
    """The passes of TeCoA's training and nothing else: K attack steps and a training pass with its optimizer step.

    Plain torch on tensors that are in memory: no data, no metrics, no checkpoints, no checks.

    Args:
        features: Pixels → raw features, differentiable; of the model that is trained.
        weights: What is trained.
        texts: (C, D) unit texts.
        scale: Of the logits.
        eps: Radius of the L∞ ball, which is also the step size.
        steps: Number K of attack steps.
        training: Opens what the training pass computes in, for example autocast.
        attack: Likewise, the attack passes.
    """

    def __init__(
        self,
        features: Callable[[Tensor], Tensor],
        weights: list[nn.Parameter],
        texts: Tensor,
        scale: float,
        *,
        eps: float,
        steps: int,
        training: Callable[[], Any],
        attack: Callable[[], Any],
    ) -> None:
        self.features, self.weights, self.texts, self.scale = features, weights, texts, scale
        self.eps, self.steps, self.training, self.attack = eps, steps, training, attack
        self.optimizer = torch.optim.SGD(weights, lr=1e-5, momentum=0.9)

    def step(self, pixels: Tensor, labels: Tensor) -> None:
        """One optimizer step on (B, 3, H, W) and (B,)."""
        for weight in self.weights:
            weight.requires_grad_(False)
        points = (pixels + self.eps * (2 * torch.rand_like(pixels) - 1)).clamp(0, 1)
        with self.attack():
            for _ in range(self.steps):
                points.requires_grad_(True)
                (slope,) = torch.autograd.grad(self._losses(points, labels).sum(), points)
                moved = points.detach() + self.eps * slope.sign()
                points = moved.clamp(pixels - self.eps, pixels + self.eps).clamp(0, 1)
        for weight in self.weights:
            weight.requires_grad_(True)
        with self.training():
            loss = self._losses(points, labels).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def _losses(self, points: Tensor, labels: Tensor) -> Tensor:
        logits = self.scale * normalize(self.features(points).float(), dim=-1) @ self.texts.T
        return cross_entropy(logits, labels, reduction="none")
