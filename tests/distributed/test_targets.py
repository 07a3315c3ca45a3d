"""What every verb says when it cannot write, and when Ray is slow to start."""

import contextlib
import os
import subprocess
import time

import psutil
import pytest
from head_node import NETDIFF, environment, kill_with_all_below
from paths import ROOT

from netdiff_ray.cli import main

pytestmark = pytest.mark.usefixtures("local_ray")

CAPTURE = ROOT / "samples" / "train" / "dns" / "host-0.pcap.gz"
WRITING_VERBS = ("convert", "repair", "encode", "train", "generate", "evaluate", "pipeline")


@pytest.fixture(scope="module")
def sources(tmp_path_factory, local_ray):
    """Return a folder with what verbs read: a drawn file, captures and their windows."""
    folder = tmp_path_factory.mktemp("sources")
    assert main(["convert", str(CAPTURE), str(folder / "drawn.nprint"), "--count", "20"]) == 0
    (folder / "captures" / "dns").mkdir(parents=True)
    (folder / "captures" / "dns" / CAPTURE.name).symlink_to(CAPTURE)
    encode = ["encode", str(folder / "captures"), str(folder / "encoded"), "--height", "32"]
    assert main(encode) == 0
    return folder


def arguments(verb, sources, adapter, base, target):
    """Return the command line of a verb that writes to a target."""
    captures = sources / "captures"
    return [str(word) for word in {
        "convert": ("convert", CAPTURE, target.with_suffix(".pcap")),
        "repair": ("repair", sources / "drawn.nprint", target),
        "encode": ("encode", captures, target),
        "train": (
            "train", sources / "encoded", target, "--base", base, "--steps", 1, "--batch-size", 2,
            "--warmup-steps", 0,
        ),
        "generate": (
            "generate", adapter, target, "--flows", 2, "--steps", 1, "--denoisers", 1, 1,
        ),
        "evaluate": (
            "evaluate", "--real", captures, "--synthetic", captures, "--out", target, "--seeds", 1,
        ),
        "pipeline": ("pipeline", captures, target, "--base", base, "--height", 32),
    }[verb]]  # fmt: skip


@pytest.fixture(scope="module")
def full_disk(tmp_path_factory):
    """Yield a file system without a free byte."""
    folder = tmp_path_factory.mktemp("full")
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs root, to mount a small file system")
    with contextlib.suppress(OSError), open(folder / "filler", "wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="module")
def read_only(tmp_path_factory):
    """Yield a folder in which nobody can write."""
    folder = tmp_path_factory.mktemp("read-only")
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)]
    mounted = not os.geteuid() and not subprocess.run(mount, check=False).returncode
    if not mounted:
        folder.chmod(0o555)
        if os.access(folder, os.W_OK):
            pytest.skip("needs a user whom permissions bind, or the right to mount")
    yield folder
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="module")
def no_folder(tmp_path_factory):
    """Return a file where a folder would have to be."""
    file = tmp_path_factory.mktemp("no-folder") / "file"
    file.touch()
    return file


@pytest.mark.parametrize(
    ("target_folder", "reason"),
    [
        ("full_disk", "no space left on device; make room"),
        ("read_only", "choose a target that can be written"),
        ("no_folder", ""),
    ],
)
@pytest.mark.parametrize("verb", WRITING_VERBS)
def test_a_target_that_cannot_be_written_is_named_with_the_reason(
    verb, target_folder, reason, sources, adapter_directory, toy_directory, request, capfd
):
    target = request.getfixturevalue(target_folder) / verb
    assert main(arguments(verb, sources, adapter_directory, toy_directory, target)) == 2
    said = capfd.readouterr().err
    last = said.splitlines()[-1]
    assert last.startswith("netdiff: ")
    assert str(target.parent) in last
    assert reason in last
    assert "Traceback" not in said
    assert "retry" not in said
    assert "Errno" not in last


@pytest.mark.slow
def test_a_ray_that_starts_slowly_gets_a_sentence(sources, short_home, tmp_path):
    """The raylet is halted for longer than Ray waits for it."""
    with subprocess.Popen(
        [*NETDIFF, "encode", str(sources / "captures"), str(tmp_path / "out")],
        env=environment(short_home), stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            raylet = None
            while raylet is None:
                assert process.poll() is None
                below = psutil.Process(process.pid).children(recursive=True)
                raylet = next((p for p in below if p.name() == "raylet"), None)
                time.sleep(0.01)
            raylet.suspend()
            last = [line for line in process.stderr if line.startswith("netdiff: ")][-1]
            assert process.wait() == 2
        finally:
            kill_with_all_below(process)
    assert last.startswith("netdiff: Ray did not start on this machine: ")
    assert "run the same command again" in last
