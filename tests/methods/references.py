"""Every method's losses once more, in float64 and plainly, from the equations in their docstrings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from zsrobust.methods.base import Learner
from zsrobust.methods.coadv import Codes


def nll(logits: Tensor, labels: Tensor) -> Tensor:
    return torch.stack([-(row - row.exp().sum().log())[label] for row, label in zip(logits, labels, strict=True)])


def unit(features: Tensor) -> Tensor:
    return features / features.norm(dim=-1, keepdim=True)


def kl(one: Tensor, other: Tensor) -> Tensor:
    """Of softmaxes of logits."""
    p, q = (logits.exp() / logits.exp().sum(1, keepdim=True) for logits in (one, other))
    return (p * (p / q).log()).sum(1)


def patches_of(encoder: Any, pixels: Tensor) -> Tensor:
    """Features of the patches of transformers' CLIP, from its last hidden state."""
    model = encoder.model
    hidden = model.vision_model(encoder.normalised(pixels)).last_hidden_state
    features: Tensor = model.visual_projection(model.vision_model.post_layernorm(hidden))[:, 1:]
    return features


def attention(encoder: Any, pixels: Tensor, texts: Tensor) -> Tensor:
    """Maps of attention to one text for each image."""
    height, width = encoder.input_size
    maps = []
    for image, text in zip(unit(patches_of(encoder, pixels)), texts, strict=True):
        flat = image @ text
        grid = ((flat - flat.min()) / (flat.max() - flat.min())).view(1, 1, int(len(flat) ** 0.5), -1)
        maps.append(interpolate(grid, (height, width), mode="bilinear").flatten())
    return torch.stack(maps)


def reference(name: str, learner: Learner, points: Tensor, pixels: Tensor, labels: Tensor) -> Tensor:
    """Per-example losses of the learner at the method's default options."""
    scale, texts = learner.encoder.logit_scale, learner.head.embeddings
    features, clean = learner.encoder.encode_pixels(points), learner.encoder.encode_pixels(pixels)
    with torch.no_grad():
        anchors, guided = learner.original.encode_pixels(pixels), learner.original.encode_pixels(points)
    logits, clean_logits = scale * unit(features) @ texts.T, scale * unit(clean) @ texts.T
    if name == "standard":
        assert isinstance(learner.extra, nn.Linear)
        return nll(features @ learner.extra.weight.T + learner.extra.bias, labels)
    if name == "coadv":
        assert isinstance(learner.extra, Codes)
        return nll(scale * unit(features) @ learner.extra.vectors.T, labels)
    if name == "imgcoadv":
        return nll(scale * unit(features) @ unit(clean).T, torch.arange(len(labels)))
    if name == "clean":
        return nll(clean_logits, labels)
    if name == "fare":
        return ((features - anchors) ** 2).sum(1)
    if name == "sim-clip":
        pulled = (unit(features) * unit(clean.detach())).sum(1) + (unit(clean) * unit(features.detach())).sum(1)
        return -pulled / 2
    if name == "pmg-aft":
        return nll(logits, labels) + kl(scale * unit(guided) @ texts.T, logits) + kl(clean_logits, logits)
    if name == "agft":
        targets = (0.4 * 1.8 * scale * unit(anchors) @ texts.T).softmax(1)
        return -(targets * (1.8 * logits).log_softmax(1)).sum(1)
    if name == "trades":
        return nll(clean_logits, labels) + 6 * kl(clean_logits, logits)
    if name == "mart":
        p, q = clean_logits.softmax(1), logits.softmax(1)
        own = torch.arange(len(labels)), labels
        others = q.clone()
        others[own] = 0
        boosted = -q[own].log() - (1 - others.max(1).values).log()
        return boosted + 5 * kl(clean_logits, logits) * (1 - p[own])
    if name == "tga-zsr":
        texts = texts[labels]
        with torch.no_grad():
            original = attention(learner.original, pixels, texts)
        moved, stayed = (attention(learner.encoder, x, texts) - original for x in (points, pixels))
        return nll(logits, labels) + 0.08 * moved.norm(dim=1) + 0.05 * stayed.norm(dim=1)
    if name == "dual":
        distance = scale * (1 - (unit(features) * unit(anchors)).sum(1))
        with torch.no_grad():
            before = patches_of(learner.original, pixels)
        apart = (1 - (unit(patches_of(learner.encoder, points)) * unit(before)).sum(2)).mean(1)
        return distance + 0.3 * kl(scale * unit(anchors) @ texts.T, logits) + scale * apart
    assert name == "tecoa"
    return nll(logits, labels)


def climbed(name: str, learner: Learner, points: Tensor, pixels: Tensor, labels: Tensor) -> Tensor:
    """Per-example values that the adversary climbs where they are not the learner's losses, at default options."""
    scale, texts = learner.encoder.logit_scale, learner.head.embeddings
    features, clean = learner.encoder.encode_pixels(points), learner.encoder.encode_pixels(pixels)
    logits = scale * unit(features) @ texts.T
    if name == "trades":
        return kl(scale * unit(clean) @ texts.T, logits)
    if name == "sim-clip":
        return ((features - clean) ** 2).sum(1)
    if name == "dual":
        with torch.no_grad():
            anchors = learner.original.encode_pixels(pixels)
        distance = scale * (1 - (unit(features) * unit(anchors)).sum(1))
        return distance + 0.3 * kl(scale * unit(anchors) @ texts.T, logits)
    assert name in ("clean", "mart", "pmg-aft", "tga-zsr")
    return nll(logits, labels)
