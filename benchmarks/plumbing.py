"""Does the paper's recipe run end to end? ViT-B/32 with random weights on a look-alike ImageNet, killed once, resumed.

    python -m benchmarks.plumbing --data FOLDER [--steps 300] [--batch-size 4]

A test of the plumbing and nothing else: the weights are random, the 1,000 photographs are one for each class, and no
accuracy here means anything. What it shows: `zsrobust adapt tecoa` with the paper's settings (PGD-2 at 1/255, SGD at
1e-5, warm-up, cosine) takes an ImageNet folder and a thousand class prompts, survives SIGKILL, goes on from its last
checkpoint, and leaves a model that loads and can be attacked. FOLDER has imagenet-1k-one-per-class.parquet.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from benchmarks.speed.models import CLIP_MEAN, CLIP_STD
from benchmarks.speed.models import VIT_B_32 as SHAPE
from transformers import AutoTokenizer, CLIPConfig, CLIPModel

from zsrobust.encoders.embedded import tiny_folder
from zsrobust.encoders.huggingface import quiet
from zsrobust.run_folder import versions


def photographs(table: Path, folder: Path) -> None:
    """One folder a class with its photograph, as ImageNet's training archive unpacks."""
    for row in pq.read_table(table).to_pylist():
        home = folder / row["wnid"]
        home.mkdir(parents=True, exist_ok=True)
        (home / f"{row['wnid']}_0.JPEG").write_bytes(row["image"]["bytes"])


def random_clip(folder: Path) -> None:
    """A checkpoint of ViT-B/32's size in the Hugging Face layout, with the embedded model's tokenizer."""
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(tiny_folder())
        text = {"vocab_size": len(tokenizer), "max_position_embeddings": 77, "eos_token_id": tokenizer.eos_token_id}
        vision = {
            "image_size": SHAPE.size, "patch_size": SHAPE.patch, "hidden_size": SHAPE.width,
            "intermediate_size": 4 * SHAPE.width, "num_hidden_layers": SHAPE.layers, "num_attention_heads": SHAPE.heads,
        }  # fmt: skip
        torch.manual_seed(0)
        config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=SHAPE.embedding)
        CLIPModel(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "crop_size": SHAPE.size,
                "do_center_crop": True,
                "do_normalize": True,
                "do_resize": True,
                "resample": 3,
                "image_processor_type": "CLIPImageProcessor",
                "image_mean": CLIP_MEAN,
                "image_std": CLIP_STD,
                "size": SHAPE.size,
            }
        )
    )


def steps_done(run: Path) -> int:
    """The step of the newest whole checkpoint."""
    found = sorted((run / "checkpoints").glob("step-*"))
    return int(found[-1].name.removeprefix("step-")) if found else 0


def killed(command: list[str], run: Path, *, after: int) -> int:
    """Runs ``command``, kills it some time after its checkpoint at step ``after``; the step it had saved."""
    process = subprocess.Popen(command)
    while steps_done(run) < after:
        if process.poll() is not None:
            sys.exit(f"the first run ended by itself with {process.returncode}")
        time.sleep(0.5)
    time.sleep(2)  # into the steps after the checkpoint
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return steps_done(run)


def main() -> None:
    """Builds, runs, kills, resumes, and checks what is left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/plumbing"))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "plumbing.json")
    given = parser.parse_args()
    shutil.rmtree(given.work, ignore_errors=True)
    train, model, run = given.work / "imagenet" / "train", given.work / "random-vit-b-32", given.work / "run"
    photographs(given.data / "imagenet-1k-one-per-class.parquet", train)
    random_clip(model)

    per_epoch = -(-1000 // given.batch_size)
    epochs, limit = (1, given.steps * given.batch_size) if given.steps < per_epoch else (given.steps // per_epoch, 1000)
    command = [
        sys.executable, "-m", "zsrobust", "adapt", "tecoa", "--model", str(model), "--task", str(train.parent),
        "--run", str(run), "--batch_size", str(given.batch_size), "--epochs", str(epochs), "--limit", str(limit),
        "--checkpoint_every", "50", "--log_every", "10", "--attention", "eager",
    ]  # fmt: skip
    start = time.monotonic()
    saved = killed(command, run, after=given.steps // 3)
    again = time.monotonic()
    subprocess.run(command, check=True)
    end = time.monotonic()
    idle = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    total = epochs * -(-limit // given.batch_size)
    assert [line["step"] for line in lines] == [*range(10, total, 10), total], "a step is missing or there twice"
    assert "Finished before" in idle
    attacked = [
        sys.executable, "-m", "zsrobust", "evaluate", str(run), "--tasks", str(train), "--attacks", "fgsm",
        "--limit", "8", "--run", str(given.work / "evaluation"),
    ]  # fmt: skip
    subprocess.run(attacked, check=True)
    result: dict[str, Any] = {
        "what": "plumbing only: random weights, one photograph a class; no accuracy is claimed",
        "command": "python -m benchmarks.plumbing --data FOLDER",
        "steps": total, "batch_size": given.batch_size, "classes": 1000, "killed_after_checkpoint": saved,
        "seconds_until_the_kill": round(again - start), "seconds_after_it": round(end - again),
        "first_loss": lines[0]["loss"], "last_loss": lines[-1]["loss"],
        "images_per_second": lines[-1]["images_per_second"],
        "machine": f"{platform.machine()}, {os.cpu_count()} cores", "versions": versions(),
    }  # fmt: skip
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
