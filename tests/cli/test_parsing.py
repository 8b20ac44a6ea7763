from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from zsrobust.cli import adapt, demo, evaluate
from zsrobust.cli.command import WHOLE, Command, also
from zsrobust.cli.naming import run_folder
from zsrobust.cli.parsing import dump, parse
from zsrobust.errors import ConfigError, UnknownName


@dataclass(kw_only=True)
class Options:
    """Toy."""

    names: list[str] = field(default_factory=list, metadata=also("name"))
    """Names."""
    whole: list[str] = field(default_factory=list, metadata=WHOLE)
    """Whole."""
    lr: float = 0.1
    """Rate."""
    limit: int | None = None
    """Limit."""
    kind: Literal["a", "b"] = "a"
    """Kind."""
    save_images: bool = False
    """Save."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Extra."""


TOY = Command(name="toy", options=Options, positional="names")


def toy(*argv: str) -> Options:
    options = parse(TOY, argv)
    assert isinstance(options, Options)
    return options


def test_values() -> None:
    assert toy("--lr", "1e-3", "--limit=4", "--kind", "b") == Options(lr=1e-3, limit=4, kind="b")
    assert toy("--lr", "-1").lr == -1


def test_lists() -> None:
    assert toy("--names", "a, b", "c", "--name", "d").names == ["a", "b", "c", "d"]
    assert toy('--names=["a, b", "c"]').names == ["a, b", "c"]
    assert toy("--names", "a", "--names", "[b, c]", "--names", "d,e").names == ["a", "b", "c", "d", "e"]
    assert toy("--names", "[b]", "--names", "a").names == ["b", "a"]
    assert toy("--whole", "[x] {}", "--whole", "[a").whole == ["[x] {}", "[a"]
    for text in ("[{}]", "[a photo of a {}]", "[null]"):
        with pytest.raises(ConfigError, match=r"^option --whole \[.*\]: no list of texts; quote what has \{\}"):
            toy("--whole", text)
    assert toy("--whole", "[a, b]", "--whole", "c, d").whole == ["a", "b", "c, d"]
    assert repr(parse(evaluate.COMMAND, ["--eps", "[0, 4, 1/255]"]).eps) == "[0, 4, '1/255']"


def test_flags() -> None:
    assert toy("--save-images").save_images
    assert toy("--save_images", "x") == Options(save_images=True, names=["x"])
    assert not toy("--save_images=false").save_images


def test_mapping() -> None:
    assert toy("--extra.scale", "20", "--extra.word", "x").extra == {"scale": 20, "word": "x"}


def test_entries_of_mappings_in_mappings_keep_their_neighbours(tmp_path: Path) -> None:
    (tmp_path / "some.yaml").write_text("extra: {token: {depth: deep, count: 7}, width: 3}\n")
    options = toy("--config", str(tmp_path / "some.yaml"), "--extra.token.count", "4", "--extra.token.std=1e-3")
    assert options.extra == {"token": {"depth": "deep", "count": 4, "std": 0.001}, "width": 3}
    with pytest.raises(ConfigError, match=r"option --extra\.token\.count: token is 3, which has no entries"):
        toy("--extra.token", "3", "--extra.token.count", "4")


def test_nothing_given_is_the_defaults() -> None:
    assert toy() == Options()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--limt", "3"], "unknown option --limt; did you mean --limit? (zsrobust toy --help lists all)"),
        (["-l"], "unknown option -l"),
        (["--lr"], "option --lr needs a value"),
        (["--lr", "--limit", "3"], "option --lr needs a value"),
        (["--lr", "abc"], "option --lr must be a number, not 'abc'"),
        (["--limit", "1.5"], "option --limit must be a whole number or null, not '1.5'"),
        (["--kind", "c"], "option --kind must be one of a, b, not 'c'"),
        (["--save_images=maybe"], "option --save_images must be true or false, not 'maybe'"),
    ],
)
def test_mistakes(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        toy(*argv)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_file_then_command_line(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("lr: 1e-3\nnames: x, y\nsave-images: true\nextra: {scale: 3}\n")
    expected = Options(lr=1e-3, names=["x", "y"], save_images=True, extra={"scale": 3}, limit=7)
    # The command line wins wherever the file is named.
    assert toy("--limit", "7", "--config", str(file)) == expected
    assert toy("--config", str(file), "--lr", "2").lr == 2


def test_files_in_their_order(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("lr: 1\n")
    second.write_text("lr: 2\nlimit: 2\n")
    again = toy("--config", str(first), "--config", str(second), "--config", str(first))
    assert (again.lr, again.limit) == (1, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epss: 1", "{}: unknown key 'epss'"),
        ("limt: 1", "{}: unknown key 'limt'; did you mean 'limit'?"),
        ("lr: fast", "{}: lr must be a number, not 'fast'"),
        ("- a\n- b", "{}: must hold options"),
        ("a: [1\n", "{}, line 2: not YAML"),
        ("lr: 1\n b: 2", "{}, line 2: not YAML"),
        ("name: a\nnames: [b]", "{}: names is given twice, the second time as 'names'"),
        ("save-images: true\nlr: 1\nsave_images: false", "{}: save_images is given twice, the second time as 'save_i"),
        ("lr: 1\nlimit: 2\nlr: 3", "{}, line 3: 'lr' is given twice"),
        ("extra: {a: 1, b: {c: 1, c: 2}}", "{}, line 1: 'c' is given twice"),
    ],
)
def test_mistakes_in_a_file(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        toy("--config", str(file))
    assert str(caught.value).startswith(message.format(file))
    assert "\n" not in str(caught.value)


def test_file_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"configuration file nowhere\.yaml cannot be read"):
        toy("--config", "nowhere.yaml")
    with pytest.raises(UnknownName, match="unknown recipe 'demmo'; did you mean 'demo'"):
        toy("--config", "demmo")


def test_binary_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not a text file"):
        toy("--config", str(tmp_path / "a.yaml"))


@pytest.mark.parametrize("command", [adapt.COMMAND, evaluate.COMMAND, demo.COMMAND], ids=lambda c: str(c.name))
def test_resolved_configuration_reads_back(command: Command, tmp_path: Path) -> None:
    argv = {
        "adapt": ["--method_options.scale", "20", "--lr", "3e-5", "--step_size", "1/255", "--select", "a,b"],
        "evaluate": ["m", "--tasks", "a,b", "--template", "a, {}", "--eps", "0,4/255", "--seeds", "0,1", "--pictures"],
        "demo": ["--adapt.lr", "3e-5", "--evaluate.limit", "7"],
    }[command.name]
    options = parse(command, argv)
    file = tmp_path / "config.yaml"
    file.write_text(dump(options, command.name))
    assert parse(command, ["--config", str(file)]) == options


def test_print_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(TOY, ["--print-config", "--limit", "3"]) is None
    assert yaml.safe_load(capsys.readouterr().out) == asdict(Options(limit=3))


def test_eps_of_a_file_stay_what_was_written(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("eps: [0, 4, 0.5, 1/255]\n")
    options = parse(evaluate.COMMAND, ["--config", str(file)])
    # 4 must not become 4.0, which would be taken for a decimal that is meant.
    assert [repr(eps) for eps in options.eps] == ["0", "4", "0.5", "'1/255'"]


def test_demo_starts_from_its_recipe() -> None:
    options = parse(demo.COMMAND, ["--adapt.epochs", "1"])
    assert options.adapt.model == "tiny"
    assert options.adapt.epochs == 1
    assert options.adapt.method_options
    assert len(options.evaluate.tasks) > 3
    with pytest.raises(ConfigError, match=r"unknown option --adapt\.epoch; did you mean --adapt\.epochs\?"):
        parse(demo.COMMAND, ["--adapt.epoch", "1"])


def test_help_of_the_demo_shows_its_recipe(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "2000")  # no explanation is folded
    assert parse(demo.COMMAND, ["--help"]) is None
    blocks = {block.split()[0]: " ".join(block.split()) for block in capsys.readouterr().out.split("\n  --")[1:]}
    for option, told in (
        ("adapt.lr", "(default: 0.0002)"),
        ("adapt.epochs", "(default: 3)"),
        ("adapt.threat", "(default: linf:4/255:native)"),
        ("adapt.method_options", "for example --adapt.method_options.scale 20. (default: scale 20)"),
        ("evaluate.tasks", "(default: world-compositions, world-unseen, world-shape,"),
        ("evaluate.seed", "the images that --evaluate.limit keeps;"),
        ("run", "(default: runs/demo)"),
    ):
        assert told in blocks[option]
    assert parse(adapt.COMMAND, ["--help"]) is None
    printed = capsys.readouterr().out
    assert "for example --method_options.scale 20.\n" in printed
    assert "(default: 1e-05)" in printed


def test_run_folder_is_the_same_for_the_same_command() -> None:
    first = run_folder(None, ["openai/clip", "/data/x/birds.toml"], {"lr": 1})
    assert first == run_folder(None, ["openai/clip", "/data/x/birds.toml"], {"lr": 1})
    assert first != run_folder(None, ["openai/clip", "/data/x/birds.toml"], {"lr": 2})
    assert first.parent == Path("runs")
    assert first.name.startswith("openai-clip-x-birds-")
    assert run_folder("mine", ["a"], {}) == Path("mine")
