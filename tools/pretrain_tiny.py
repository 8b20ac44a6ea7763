"""Make the tiny CLIP that ships inside zsrobust, from a seed: ``python tools/pretrain_tiny.py --photos PATH``.

It learns, as CLIP does, to match pictures with texts: renders of the micro-world with captions that mention random
parts of them, and photographs with the name of their class. Takes under an hour on two CPU cores; when it is stopped,
the same command goes on where it was.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tiny_card import measure, write_card
from tiny_data import (
    ATTRIBUTES,
    PHOTO_TEMPLATES,
    SCAN_TEMPLATES,
    Batch,
    Mixture,
    Photos,
    make_renders,
    photo_caption,
    read_photos,
    task_templates,
)
from tiny_model import build_model, partial_image_features, save_folder, text_features, train_tokenizer
from tiny_words import class_words
from torch.nn.functional import cross_entropy, log_softmax
from tqdm import tqdm
from transformers import CLIPModel, CLIPTokenizer

from zsrobust.tasks.world.captions import caption
from zsrobust.tasks.world.scene import ABSENT, VOCABULARY, sample_scene

REPOSITORY = Path(__file__).resolve().parent.parent
TASKS = REPOSITORY / "src" / "zsrobust" / "tasks"
OUTPUT = REPOSITORY / "src" / "zsrobust" / "encoders" / "embedded" / "tiny"

RENDERS = {"single": 50_000, "count": 8_000, "glyph": 20_000, "scan": 8_000}
PATCHES = 64
CLASS_WEIGHTS = {"photo": 1.0, "glyph": 0.6, "position": 0.35, "size": 0.35}  # 0.25 for every other attribute


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """The class names of one attribute and the templates they are put into."""

    attribute: str
    names: tuple[str, ...]
    templates: tuple[str, ...]

    def texts(self, rng: np.random.Generator) -> list[str]:
        """One text for each class, all from the same random template."""
        template = self.templates[int(rng.integers(len(self.templates)))]
        return [template.format(name) for name in self.names]


def main() -> None:
    options = parse_options()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    started = time.monotonic()

    photos = read_photos(options.photos)
    counts = {stream: round(count * options.share) for stream, count in RENDERS.items()}
    renders = make_renders(counts, options.seed, os.cpu_count() or 1)
    took = time.monotonic() - started
    print(f"{len(photos.labels)} photographs, {len(renders.scenes)} renders, {took:.0f} s", flush=True)

    tokenizer = train_tokenizer(vocabulary_texts(photos))
    model = build_model(tokenizer)
    mixture = Mixture(photos, renders, seed=options.seed, photo_share=options.photo_share, batch=options.batch)
    steps = options.epochs * (len(photos.labels) // mixture.photo_count)
    prompts = class_prompts(photos)
    seconds = train(model, tokenizer, mixture, prompts, steps=steps, options=options)

    save_folder(model, tokenizer, options.out)
    results = measure(options.out, TASKS, options.held_out_photos, PHOTO_TEMPLATES)
    command = "python tools/pretrain_tiny.py " + " ".join(described(sys.argv[1:]))
    write_card(
        options.out,
        results,
        command=command,
        seed=options.seed,
        seconds=seconds,
        steps=steps,
        batch=options.batch,
        partial=options.partial_steps,
        photos=len(photos.labels),
        renders=counts,
        template=PHOTO_TEMPLATES[0],
    )


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument(
        "--photos", required=True, help="parquet file, image folder or hub id of CIFAR-10's training images"
    )
    parser.add_argument("--held-out-photos", help="the same for photographs that are only measured on")
    parser.add_argument("--out", type=Path, default=OUTPUT, help="model folder to write")
    parser.add_argument("--checkpoint", type=Path, default=Path("runs/pretrain-tiny.pt"), help="where progress is kept")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=10, help="passes over the photographs")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--photo-share", type=float, default=0.5625, help="share of photographs in a batch")
    parser.add_argument(
        "--partial-steps", type=int, default=1_300, help="first steps, in which an image keeps half of its patches"
    )
    parser.add_argument("--share", type=float, default=1.0, help="share of the renders; less for a trial")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--compile", action="store_true", help="torch.compile the visual tower: 1.4 x faster")
    parser.add_argument("--save-every", type=int, default=100, help="steps between checkpoints")
    return parser.parse_args()


def described(arguments: list[str]) -> Iterator[str]:
    """The arguments, with paths cut to the file's name: a card should not carry one machine's folders."""
    for argument in arguments:
        yield Path(argument).name if os.sep in argument else argument


# --------------------------------------------------------------------------------------------------------------- words


def vocabulary_texts(photos: Photos) -> Iterator[str]:
    """Texts that the tokenizer is trained on: captions of every kind, and general class names."""
    rng = np.random.Generator(np.random.Philox(key=0))
    for stream in ("single", "count", "glyph"):
        for index in range(2_000):
            yield caption(sample_scene(stream, 0, index), rng).text
    for name in photos.class_names:
        for _ in range(50):
            yield photo_caption(name, rng).text
    yield from SCAN_TEMPLATES
    yield from class_words() * 3


def class_prompts(photos: Photos) -> list[Prompts]:
    """The prompts of every attribute, in the templates of its task."""
    templates = task_templates(TASKS)
    world = [Prompts(attribute=name, names=names, templates=templates[name]) for name, names in VOCABULARY.items()]
    return [*world, Prompts(attribute="photo", names=photos.class_names, templates=PHOTO_TEMPLATES)]


# ------------------------------------------------------------------------------------------------------------ training


def train(
    model: CLIPModel,
    tokenizer: CLIPTokenizer,
    mixture: Mixture,
    prompts: list[Prompts],
    *,
    steps: int,
    options: argparse.Namespace,
) -> float:
    """Train the model in place; continues from ``options.checkpoint`` where there is one.

    Returns:
        Seconds spent in training, over all runs that it took.
    """
    optimizer = torch.optim.AdamW(parameter_groups(model, options.weight_decay), lr=options.lr, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.lr, total_steps=steps, pct_start=0.1)
    state = {"model": model, "optimizer": optimizer, "schedule": schedule}
    done, before = restore(options.checkpoint, state)
    model.train()
    look = torch.compile(partial_image_features, dynamic=False) if options.compile else partial_image_features
    started, quiet, averages = time.monotonic(), not sys.stderr.isatty(), {}
    for step in tqdm(range(done, steps), initial=done, total=steps, disable=quiet):
        losses = step_losses(
            model,
            tokenizer,
            mixture.batch(step),
            prompts,
            look=look,
            patches=PATCHES // 2 if step < options.partial_steps else PATCHES,
            rng=step_rng(options.seed, step),
        )
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=float(np.log(100)))
        seen = {name: loss.item() for name, loss in losses.items()}
        averages = {name: 0.98 * averages.get(name, loss) + 0.02 * loss for name, loss in seen.items()}
        if quiet and (step + 1) % 50 == 0:
            told = " ".join(f"{name} {value:.3f}" for name, value in averages.items())
            rate = (step + 1 - done) / (time.monotonic() - started)
            print(f"step {step + 1}/{steps} {told} | {(steps - step - 1) / rate / 60:.1f} min left", flush=True)
        if (step + 1) % options.save_every == 0 or step + 1 == steps:
            keep(options.checkpoint, state, step + 1, before + time.monotonic() - started)
    model.eval()
    return before + time.monotonic() - started


def step_rng(seed: int, step: int) -> np.random.Generator:
    """The generator that picks a step's templates."""
    return np.random.Generator(np.random.Philox(key=np.array([(1 << 40) + seed, step], dtype=np.uint64)))


def step_losses(
    model: CLIPModel,
    tokenizer: CLIPTokenizer,
    batch: Batch,
    prompts: list[Prompts],
    *,
    look: Callable[[CLIPModel, torch.Tensor, torch.Tensor], torch.Tensor],
    patches: int,
    rng: np.random.Generator,
) -> dict[str, torch.Tensor]:
    """The losses of one batch, by name: ``captions``, and the weighted cross-entropy of each attribute.

    ``look`` is ``partial_image_features``, compiled or not, and ``patches`` the number that each image keeps.
    """
    texts = [text for group in prompts for text in group.texts(rng)]
    kept = np.argsort(rng.random((len(batch.pixels), PATCHES)), axis=1)[:, :patches]
    with torch.autocast("cpu", torch.bfloat16):
        images = look(model, batch.pixels, torch.from_numpy(kept))
        words = text_features(model, tokenizer, batch.texts + texts)
    logits = model.logit_scale.exp() * images @ words.T
    count = len(batch.texts)
    losses = {"captions": caption_loss(logits[-count:, :count], batch.labels[-count:], batch.mentions)}
    first = count
    for group in prompts:
        last = first + len(group.names)
        labels = batch.labels[:, ATTRIBUTES.index(group.attribute)]
        there = labels != ABSENT
        if there.any():
            weight = CLASS_WEIGHTS.get(group.attribute, 0.25)
            losses[group.attribute] = weight * cross_entropy(logits[there, first:last], labels[there])
        first = last
    return losses


def caption_loss(logits: torch.Tensor, labels: torch.Tensor, mentions: torch.Tensor) -> torch.Tensor:
    """CLIP's symmetric loss, with every caption that is true of an image as its positive.

    "A red shape" is true of a dozen images of a batch; taking only its own as the positive would teach that the
    others are not red.

    Args:
        logits: (B, B) images x captions.
        labels: (B, A) attributes of the images.
        mentions: (B, A) attributes that the captions mention, ``ABSENT`` for the others.
    """
    agrees = (labels[:, None] == mentions[None]) | (mentions[None] == ABSENT)
    true = agrees.all(dim=-1).float()
    images = -(log_softmax(logits, dim=1) * true / true.sum(dim=1, keepdim=True)).sum(dim=1).mean()
    captions = -(log_softmax(logits, dim=0) * true / true.sum(dim=0, keepdim=True)).sum(dim=0).mean()
    return 0.5 * (images + captions)


def parameter_groups(model: CLIPModel, weight_decay: float) -> list[dict[str, object]]:
    """Weight decay for matrices only."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def keep(path: Path, state: dict[str, torch.nn.Module], done: int, seconds: float) -> None:
    """Write a checkpoint; a reader sees the old one or the new one, never half of one."""
    stored = {name: part.state_dict() for name, part in state.items()} | {"done": done, "seconds": seconds}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(stored, partial)
    os.replace(partial, path)


def restore(path: Path, state: dict[str, torch.nn.Module]) -> tuple[int, float]:
    """(steps done, seconds spent) of the checkpoint, whose state is loaded; (0, 0) without one."""
    if not path.exists():
        return 0, 0.0
    stored = torch.load(path, weights_only=True)
    for name, part in state.items():
        part.load_state_dict(stored[name])
    return stored["done"], stored["seconds"]


if __name__ == "__main__":
    main()
