"""The command line as a whole: signals, errors and exit codes."""

import io
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import netdiff_ray
from netdiff_ray.cli.arguments import VERBS, parsed
from netdiff_ray.cli.export_verbs import export_verb, replay_verb, show_verb
from netdiff_ray.cli.job_verbs import (
    augment_verb,
    encode_verb,
    evaluate_verb,
    generate_verb,
    pipeline_verb,
    scene_verb,
    serve_verb,
    submit_verb,
    train_verb,
)
from netdiff_ray.cli.local_verbs import (
    check_base_verb,
    check_verb,
    convert_verb,
    info_verb,
    inspect_verb,
    labels_verb,
    repair_verb,
    verify_verb,
)
from netdiff_ray.cli.results import (
    EXIT_ERROR,
    EXIT_OK,
    EXIT_PARTIAL,
    EXIT_STOPPED,
    EXIT_TERMINATED,
)
from netdiff_ray.config import (
    AugmentConfig,
    EncodeConfig,
    GenerateConfig,
    PipelineConfig,
    RepairConfig,
    SceneConfig,
    TrainConfig,
)
from netdiff_ray.errors import NetdiffError


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    with _sigterm_as_ctrl_c() as terminated:
        code = _run(sys.argv[1:] if arguments is None else arguments)
    return EXIT_TERMINATED if terminated and code == EXIT_STOPPED else code


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[list[int]]:
    """Handle SIGTERM as Ctrl-C is in a block; yield a list that gets the signal.

    Who sends SIGTERM kills the process soon after: a second one does not disturb the clean-up.
    """
    terminated: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield terminated
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if terminated:
            return
        terminated.append(number)
        on_ctrl_c = signal.getsignal(signal.SIGINT)
        if not callable(on_ctrl_c):  # ignored, as in what shells start in the background
            raise KeyboardInterrupt
        on_ctrl_c(signal.SIGINT, frame)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield terminated
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(arguments: list[str]) -> int:
    """Run the command line; KeyboardInterrupt ends it with EXIT_STOPPED."""
    if arguments == ["--version"]:
        print(f"netdiff {netdiff_ray.__version__}")
        return EXIT_OK
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may be of any bytes
        sys.stdout.reconfigure(errors="backslashreplace")
    config = None
    try:
        config = parsed(arguments)
        return _JOBS[type(config)](config)
    except NetdiffError as error:
        print(f"netdiff: {error}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        how = "; run the same command again to go on" * isinstance(config, _RESUMING)
        print(f"\nnetdiff: stopped{how}", file=sys.stderr)
        return EXIT_STOPPED
    except BrokenPipeError:
        sys.stderr.close()
        return EXIT_PARTIAL
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"netdiff: {where}{error.strerror or error}", file=sys.stderr)
        return EXIT_ERROR


_RESUMING = (
    AugmentConfig
    | EncodeConfig
    | TrainConfig
    | GenerateConfig
    | PipelineConfig
    | RepairConfig
    | SceneConfig
)


_JOBS = {
    VERBS["augment"]: augment_verb,
    VERBS["check"]: check_verb,
    VERBS["check-base"]: check_base_verb,
    VERBS["convert"]: convert_verb,
    VERBS["encode"]: encode_verb,
    VERBS["evaluate"]: evaluate_verb,
    VERBS["export"]: export_verb,
    VERBS["generate"]: generate_verb,
    VERBS["info"]: info_verb,
    VERBS["inspect"]: inspect_verb,
    VERBS["labels"]: labels_verb,
    VERBS["pipeline"]: pipeline_verb,
    VERBS["repair"]: repair_verb,
    VERBS["replay"]: replay_verb,
    VERBS["scene"]: scene_verb,
    VERBS["serve"]: serve_verb,
    VERBS["show"]: show_verb,
    VERBS["submit"]: submit_verb,
    VERBS["train"]: train_verb,
    VERBS["verify"]: verify_verb,
}
