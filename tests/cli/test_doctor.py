from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import Zsrobust

from zsrobust.cli import doctor


def test_doctor(zsrobust: Zsrobust) -> None:
    result = zsrobust("doctor")
    assert result.error == ""
    assert result.status == (1 if "✗" in result.out else 0)
    for words in ("python ", "torch ", "✓ float32", "✓ bf16", "✓ numpy", "✓ transformers", "threads"):
        assert words in result.out
    assert " hub " not in result.out  # asked only with --online


def test_a_broken_check_is_a_line_with_a_remedy(zsrobust: Zsrobust, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> str:
        raise doctor.Broken("does not work; buy another")

    def crashing() -> str:
        raise ValueError("first line\nsecond line")

    monkeypatch.setattr(doctor, "_checks", lambda _: [("one", broken), ("two", crashing), ("three", lambda: "fine")])
    result = zsrobust("doctor")
    assert result.status == 1
    assert result.error == ""
    lines = result.out.splitlines()
    assert lines[-5:] == [
        "✗ one           does not work; buy another",
        "✗ two           first line",
        "✓ three         fine",
        "",
        "2 broken; the lines with ✗ say what to do.",
    ]


def install(folder: Path, package: str, code: str) -> None:
    (folder / package).mkdir()
    (folder / package / "__init__.py").write_text(code)
    (folder / f"{package}-0.1.dist-info").mkdir()
    (folder / f"{package}-0.1.dist-info" / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.1\n"
    )


@pytest.mark.parametrize(
    ("package", "code", "words"),
    [
        (
            "torchvision",
            "raise RuntimeError('operator torchvision::nms does not exist')",
            ["0.1 does not fit torch", "operator torchvision::nms does not exist", "pip uninstall torchvision"],
        ),
        (
            "torchcodec",
            "raise OSError('Could not load this library: libtorchcodec_image.so')",
            ["cannot be loaded", "libtorchcodec_image.so", "pip uninstall torchcodec"],
        ),
    ],
)
def test_known_broken_installations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, code: str, words: list[str]
) -> None:
    install(tmp_path, package, code)
    monkeypatch.syspath_prepend(tmp_path)
    check = {"torchvision": doctor._torchvision, "torchcodec": doctor._torchcodec}[package]
    with pytest.raises(doctor.Broken) as caught:
        check()
    for word in words:
        assert word in str(caught.value)


def test_doctor_outlives_a_broken_torchvision(tmp_path: Path) -> None:
    install(tmp_path, "torchvision", "raise RuntimeError('operator torchvision::nms does not exist')")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from zsrobust.cli import main; sys.exit(main(['doctor']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr == ""
    assert "✗ torchvision   0.1 does not fit torch" in done.stdout


def test_old_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: "4.57.1")
    with pytest.raises(doctor.Broken, match=r"4\.57\.1 is installed, 5\.x is needed: pip install"):
        doctor._transformers()


def test_numpy_that_torch_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def unavailable(_: object) -> None:
        raise RuntimeError("Numpy is not available")

    monkeypatch.setattr(torch, "from_numpy", unavailable)
    with pytest.raises(doctor.Broken, match=r"Numpy is not available.*pip install --upgrade torch numpy"):
        doctor._numpy()


def test_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "file" / "cache"))
    with pytest.raises(doctor.Broken, match="set HF_HOME"):
        doctor._cache()


def test_missing_embedded_model(monkeypatch: pytest.MonkeyPatch) -> None:
    from zsrobust import encoders
    from zsrobust.errors import ModelError

    def gone(_: str) -> None:
        raise ModelError("model folder 'x' does not exist")

    monkeypatch.setattr(encoders, "load", gone)
    with pytest.raises(doctor.Broken, match="reinstall zsrobust"):
        doctor._tiny()


def test_hub_only_when_asked(zsrobust: Zsrobust, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(doctor, "_checks", lambda options: [("hub", doctor._hub)] if options.online else [])
    assert zsrobust("doctor").status == 0
    result = zsrobust("doctor", "--online")
    assert result.status == 1
    assert "http://127.0.0.1:9 does not answer" in result.out


def test_the_folder_of_kept_work(monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    (own_cache / "text").mkdir(parents=True)
    (own_cache / "text" / f"{'a' * 64}.safetensors").write_bytes(b"x" * 50_000_000)
    monkeypatch.setenv("ZSROBUST_CACHE_BYTES", "2GB")
    assert doctor._kept() == (
        f"{own_cache} has 0.05 of at most 2.00 GB (ZSROBUST_CACHE_BYTES) of pixels and text heads; "
        "delete the folder to empty it"
    )
    monkeypatch.setenv("ZSROBUST_CACHE_BYTES", "plenty")
    with pytest.raises(doctor.Broken, match="'plenty' is no size"):
        doctor._kept()
    monkeypatch.setenv("ZSROBUST_CACHE_BYTES", "")
    monkeypatch.setenv("ZSROBUST_CACHE", str(own_cache / "text" / f"{'a' * 64}.safetensors" / "below"))
    with pytest.raises(doctor.Broken, match="set ZSROBUST_CACHE to a folder that can, or to off"):
        doctor._kept()
    monkeypatch.setenv("ZSROBUST_CACHE", "off")
    assert "not kept on disk (ZSROBUST_CACHE=off)" in doctor._kept()
