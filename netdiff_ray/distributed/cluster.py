"""A connection to Ray: a local one unless an address is given."""

import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from contextvars import ContextVar

import ray
from ray._private import ray_constants
from ray._private import utils as ray_utils
from ray._private.state import state as ray_state
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import RayError, RayTaskError
from ray.util.annotations import RayDeprecationWarning

from netdiff_ray.errors import ClusterError, NetdiffError

_STDERR = 2
"""The descriptor that native code writes to."""

_shared: ContextVar[bool] = ContextVar("shared", default=False)
"""Whether Ray outlives the job that starts it."""


def cluster_address(address: str | None) -> str | None:
    """Return the cluster to run on: the requested one, or the one that a submitted job runs
    on, which Ray names in RAY_ADDRESS; None for a local Ray."""
    return address or os.environ.get("RAY_ADDRESS") or None


@contextmanager
def one_ray() -> Iterator[None]:
    """Share a Ray among the jobs of a block: the first job connects, the end disconnects."""
    before = ray.is_initialized()
    token = _shared.set(True)
    try:
        yield
    finally:
        _shared.reset(token)
        if not before:
            ray.shutdown()


@contextmanager
def connected(address: str | None, *, dashboard: bool = False) -> Iterator[None]:
    """Connect to Ray for a block; a Ray that was started here is stopped at the end.

    Args:
        address: of a running cluster (`auto`, `host:port`, `ray://host:port`), None for that
            of `cluster_address`. Where Ray is connected already, that is used.
        dashboard: whether a local Ray has one, and with it the jobs API.

    Raises:
        ClusterError: no cluster answers there, or it fails the block.
        NetdiffError: what a task raised, as it raised it.
    """
    if ray.is_initialized():
        with _plain_errors():
            yield
        return
    # Ray's own progress would stand between the lines that the jobs print.
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", category=RayDeprecationWarning)
    for name in ("ray", "ray.data", "ray._private.authentication.authentication_token_setup"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    listening = on_loopback() if cluster_address(address) is None else nullcontext()
    with _interrupt_noted() as interrupted, _sigterm_handler_kept(), listening:
        try:
            ray.init(
                address=cluster_address(address) or "local", include_dashboard=dashboard,
                logging_level=logging.ERROR, log_to_driver=False,
            )  # fmt: skip
        except Exception as error:  # Ray raises bare ones when its processes are slow
            if interrupted:
                raise KeyboardInterrupt from None
            raise ClusterError(_no_ray(cluster_address(address), error)) from None
    try:
        if interrupted:
            raise KeyboardInterrupt
        with _plain_errors():
            yield
    finally:
        if not _shared.get():
            ray.shutdown()


def _no_ray(address: str | None, error: Exception) -> str:
    """Return the text of the error that says why there is no connection to Ray."""
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
    if address is None:
        busy = "; the machine may be busy or short of memory: run the same command again"
        return f"Ray did not start on this machine: {reason}" + busy * ("timed out" in reason)
    return f"no Ray cluster answers at {address}: {reason}"


@contextmanager
def _interrupt_noted() -> Iterator[list[int]]:
    """Yield a list that gets an interrupt (SIGINT) of the block: Ray loses interrupts while it
    connects."""
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    before = signal.signal(signal.SIGINT, lambda number, _: noted.append(number))
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def on_loopback() -> Iterator[None]:
    """Let a Ray that a block starts listen on the loopback address alone.

    Ray gives a node this machine's address on the network instead, and listens on every
    interface, but where it does not support clusters; this is said to be such a machine.
    """
    name = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    before = os.environ.get(name), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[name] = "0"  # for what Ray starts
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        del os.environ[name]
        if before[0] is not None:
            os.environ[name] = before[0]
        ray_constants.ENABLE_RAY_CLUSTER = before[1]


@contextmanager
def _sigterm_handler_kept() -> Iterator[None]:
    """Keep the handler of SIGTERM over a block that connects to Ray.

    Ray puts handlers of its own in place: while it starts, those raise SystemExit wherever the
    process is, which may be lost; afterwards, a native one aborts it with a stack trace.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
    set_handler = ray_utils.set_sigterm_handler
    ray_utils.set_sigterm_handler = lambda _: None
    try:
        yield
    finally:
        ray_utils.set_sigterm_handler = set_handler
        signal.signal(signal.SIGTERM, before)


@ray.remote(num_cpus=0, max_restarts=1)
class _Restartable:
    """An actor whose constructor takes a reference."""

    def __init__(self, _: object): ...


def quiet_restart_warning() -> None:
    """Let Ray's warning of actors whose constructors take references pass unseen.

    Ray Data hands its pools' actors their settings as references, which it keeps until its job
    ends: a restarted actor finds them. Ray warns all the same, once in a process, past Python's
    standard error (github.com/ray-project/ray/issues/53727).
    """
    sys.stderr.flush()
    kept = os.dup(_STDERR)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), _STDERR)
    try:
        actor = _Restartable.remote(ray.put(None))
    finally:
        os.dup2(kept, _STDERR)
        os.close(kept)
    ray.kill(actor)


def results_apart() -> redirect_stdout:
    """Redirect what Ray prints of dead workers to standard error for a block: standard output is
    for the job's result."""
    return redirect_stdout(sys.stderr)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Raise errors of tasks as they were raised, without Ray's wrapping, in a block."""
    try:
        yield
    except RayError as error:
        inner: BaseException | None = error
        while isinstance(inner, RayError):
            inner = getattr(inner, "cause", None) or inner.__cause__
        if isinstance(inner, NetdiffError):
            raise inner from None
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        # A task's error stands below its traceback; others say it first.
        reason = lines[-1 if isinstance(error, RayTaskError) else 0] if lines else ""
        raise ClusterError(
            f"the cluster did not carry the job out ({type(error).__name__}: {reason}); "
            "run the same command again to go on"
        ) from None
    except ExecutionTimeoutError as error:
        reason = str(error).strip().splitlines()[0]
        raise ClusterError(
            f"the job is stuck ({reason}) Look whether the cluster has lost nodes; make shards or "
            "parts smaller if they take longer than that; then run the same command again"
        ) from None


def reachable_resources() -> dict[str, float]:
    """Return `CPU` and `GPU` that the cluster has, or that its autoscaler says it may add."""
    resources = ray.cluster_resources()
    limit = ray_state.get_max_resources_from_cluster_config() or {}
    return {kind: max(resources.get(kind, 0), limit.get(kind) or 0) for kind in ("CPU", "GPU")}


def require_cpus(wanted: float) -> None:
    """Raise ClusterError, with the numbers, unless the cluster has so many CPUs, or can grow to."""
    _require("CPU", wanted)


def require_gpus(wanted: float) -> None:
    """Raise ClusterError, with the numbers, unless the cluster has so many GPUs, or can grow to."""
    _require("GPU", wanted)


def _require(kind: str, wanted: float) -> None:
    available = reachable_resources()[kind]
    if available < wanted:
        raise ClusterError(
            f"the job needs {wanted:g} {kind}s at a time; the cluster has {available:g}. Add "
            "nodes, or ask for less"
        )


def user_error_in(error: BaseException) -> NetdiffError | None:
    """Return the NetdiffError that Ray has wrapped in `error`, if any."""
    if isinstance(error, NetdiffError):
        return error
    inner = [getattr(error, name, None) for name in ("cause", "controller_failure", "__cause__")]
    inner += getattr(error, "worker_failures", {}).values()
    errors = (user_error_in(e) for e in inner if isinstance(e, BaseException))
    return next((e for e in errors if e is not None), None)
