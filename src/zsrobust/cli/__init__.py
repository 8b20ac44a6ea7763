"""The command line: finds the command, and turns whatever goes wrong into one line.

A command is a module of this package with ``COMMAND`` (its options) and ``run(options)``. Only the module that was
asked for is imported, and torch only once its options are known to be right: help and typing errors cost no waiting.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
import traceback
import warnings
from collections.abc import Sequence

from zsrobust import __version__
from zsrobust.cli.processes import aloud, one_voice, shared
from zsrobust.distributed import OfOneProcess
from zsrobust.errors import UnknownName, ZSRobustError

COMMANDS = {
    "demo": "the whole story on the embedded model: evaluate, adapt, evaluate again",
    "adapt": "make a model robust: adversarial adaptation on a task, from a recipe",
    "interpolate": "mix an adapted model with its original, for a frontier",
    "evaluate": "clean and robust accuracy of models, task by task, with intervals",
    "study": "a grid of adaptations and evaluations from a recipe, with figures",
    "corruptions": "accuracy under natural corruptions: noise, blur, JPEG, brightness",
    "retrieval": "image-text retrieval, clean and under attack",
    "drift": "how far an adapted model moved: is a new index needed?",
    "latency": "time, throughput and memory of models",
    "sanity": "could a robust accuracy of a model be a lie? looks for the reasons",
    "export": "a model for transformers, open_clip, LLaVA or onnxruntime, with a card",
    "report": "one report of one or several runs",
    "attack": "attack one image of yours",
    "data": "is the data of a task there, complete and right? (data check TASK)",
    "ls": "what there is: tasks, suites, methods, defences, attacks, models, recipes",
    "doctor": "look for what is broken in this installation",
}

OK, BUG, USER_ERROR, INTERRUPTED, PIPE_CLOSED = 0, 1, 2, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program's name; None: the process's own.

    In a job of several processes, as torchrun starts them, only the first one speaks; see
    :mod:`zsrobust.cli.processes`.

    Returns:
        Exit status: 0 done; 1 a bug, or doctor or data check found something wrong; 2 a mistake in what was asked, or
        a situation that stops the command; 130 interrupted; 141 whoever read the output went away.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # A warning is a remark to whoever reads the terminal, not a line of source code.
    warnings.formatwarning = lambda message, *_: f"zsrobust: note: {message}\n"
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # an arrow that the terminal's encoding has not; stderr does so anyway
    with one_voice():
        return _guarded(arguments)


def _guarded(arguments: list[str]) -> int:
    try:
        status = _dispatch(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # Python flushes standard output once more when it exits, which would complain.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return PIPE_CLOSED
    except SystemExit as stop:
        if not isinstance(stop.__context__, BrokenPipeError):
            raise
        return PIPE_CLOSED  # rich takes BrokenPipeError for its own and ends the program
    except OfOneProcess as error:
        traceback.print_exc()  # into its log
        aloud(f"zsrobust: error: {error}")
        return USER_ERROR if isinstance(error.__cause__, ZSRobustError | OSError) else BUG
    except ZSRobustError as error:
        return _failed(str(error))
    except KeyboardInterrupt as stop:
        print(f"\nzsrobust: interrupted; {str(stop) or 'nothing is left half-written'}", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _failed(f"{place}{error.strerror or error}")
    except Exception as error:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            return _failed("out of memory; a smaller --batch_size needs less")
        traceback.print_exc()
        print("zsrobust: this is a bug; please report it with the lines above", file=sys.stderr)
        return BUG


def _dispatch(arguments: list[str]) -> int:
    if arguments[0:1] == ["help"] and len(arguments) > 1:
        arguments = [arguments[1], "--help"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return OK
    if arguments[0] in ("--version", "-V", "version"):
        print(f"zsrobust {__version__}")
        return OK
    name = arguments[0]
    if name not in COMMANDS:
        raise UnknownName("command", name, COMMANDS)
    with shared(name):
        module = importlib.import_module(f"zsrobust.cli.{name}")
        from zsrobust.cli.parsing import parse

        options = parse(module.COMMAND, arguments[1:])
        return OK if options is None else int(module.run(options) or OK)


def _help() -> str:
    lines = [f"  {name:<11} {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "usage: zsrobust COMMAND ...",
            "",
            "Zero-shot adversarial robustness of CLIP-like models.",
            "",
            *lines,
            "",
            "zsrobust COMMAND --help lists a command's options; zsrobust --version the version.",
            "Start with: zsrobust demo",
        ]
    )


def _failed(message: str) -> int:
    sys.stdout.flush()
    print(f"zsrobust: error: {' '.join(message.splitlines())}", file=sys.stderr)
    return USER_ERROR
