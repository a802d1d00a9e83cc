"""What is asked of Ray, on a stand-in for it: devices chosen on the worker, shares of GPUs, starts, and tasks that fail."""

import contextlib
import os
import re
import signal
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import ironclip
from ironclip.core.errors import UsageError
from ironclip.core.signals import SOON, Leaving, finishing
from ironclip.grid import cluster
from ironclip.grid.cluster import run_ray
from ironclip.grid.job import GridJob
from ironclip.grid.plan import plan
from ironclip.grid.state import Place

GRID = """
name: small
shard_above: 2
defaults: {backbone: mini, dataset: shapes, eps: 4/255}
runs: [{method: zero_shot}]
evaluate: [{attacks: [fgsm], limit: 6}]
"""


class Failed(Exception):
    cause: Exception | None = None


class Reference:
    def __init__(self, arguments: tuple) -> None:
        self.arguments = arguments


class Ray(ModuleType):
    """Runs a task when its result is asked for."""

    def __init__(self, gpus: float = 0, starts: tuple[bool, ...] = (True,)) -> None:
        super().__init__("ray")
        self.__spec__ = ModuleSpec("ray", None)
        self.gpus, self.starts, self.asked = gpus, list(starts), {}
        self.exceptions = SimpleNamespace(RayError=Failed, LocalRayletDiedError=type("Died", (Failed,), {}))

    def init(self, **options):
        self.asked |= options
        if not self.starts.pop(0):
            raise RuntimeError("The node did not come up.\nlong story")

    def shutdown(self):
        pass

    def cluster_resources(self):
        return {"CPU": 2.0, "GPU": self.gpus} if self.gpus else {"CPU": 2.0}

    def remote(self, function):
        self.function = function
        return self

    def options(self, **options):
        self.asked |= options
        task = SimpleNamespace()
        task.remote = self._submitted
        return task

    def _submitted(self, *arguments):
        return Reference(arguments)

    def wait(self, references, num_returns, timeout):
        return references[:1], references[1:]

    def get(self, reference):
        try:
            self.function(*reference.arguments)
        except Exception as error:
            failed = Failed("ray::_task() died\nlong story")
            failed.cause = error
            raise failed from error


@pytest.fixture
def grid(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text(GRID)
    return path, plan(path), tmp_path / "runs" / "small"


def run(monkeypatch, grid, ray, device="cpu", **options):
    monkeypatch.setitem(sys.modules, "ray", ray)
    path, made, out = grid
    out.parent.mkdir(exist_ok=True)
    events = []
    run_ray(GridJob(path, made, out, device=device, callback=events.append), **options)
    return events


@pytest.mark.parametrize(
    ("gpus", "device", "share"), [(0, "auto", 0.0), (8, "auto", 0.25), (8, "cpu", 0.0), (8, "cuda", 0.25), (0, "cuda", 0.0)]
)
def test_gpus_are_asked_of_a_cluster_that_has_some_and_the_device_is_chosen_by_the_worker(monkeypatch, grid, gpus, device, share):
    seen = []
    monkeypatch.setattr(cluster, "_task", lambda *arguments: seen.append(arguments))
    ray = Ray(gpus)
    run(monkeypatch, grid, ray, device=device, gpus=0.25)
    assert ray.asked["num_gpus"] == share
    assert [arguments[2] for arguments in seen] == [device] * 3, "as it was asked for, once for each shard of the cell"


def test_a_cell_is_done_and_told_once_however_many_help(monkeypatch, grid):
    monkeypatch.setenv("IRONCLIP_DATA", "/data")
    ray = Ray()
    events = run(monkeypatch, grid, ray, address="auto")
    assert [event["state"] for event in events] == ["done"]
    carried = ray.asked["runtime_env"]
    assert carried["env_vars"]["IRONCLIP_DATA"] == "/data"
    (package,) = carried["py_modules"]
    assert Path(package, "__init__.py").samefile(ironclip.__file__), "the package of the driver"


def test_every_variable_that_the_package_reads_goes_with_a_task(monkeypatch):
    """But for the secret of the service."""
    files = Path(ironclip.__file__).parent.rglob("*.py")
    read = {name for file in files for name in re.findall('"(IRONCLIP_[A-Z]+)"', file.read_text(encoding="utf-8"))}
    for name in read:
        monkeypatch.setenv(name, "x")
    assert "IRONCLIP_WEIGHTS" in read
    assert cluster.carried()["env_vars"].keys() >= read - {"IRONCLIP_TOKEN"}
    assert "IRONCLIP_TOKEN" not in cluster.carried()["env_vars"]


def test_a_node_without_the_folder_fails_the_cell_with_the_reason(monkeypatch, grid, tmp_path):
    path, made, out = grid

    def elsewhere(*arguments):
        raise UsageError("the node's own words")

    with pytest.raises(UsageError, match=r"small is not on the node .*; all nodes of a cluster must see the same folders"):
        cluster._task(str(path), str(out), "cpu", 0, {}, None)
    monkeypatch.setattr(cluster, "_task", elsewhere)
    run(monkeypatch, grid, Ray())
    assert Place(out, made.cells[0]).read()["reason"] == "ray gave the cell up: the node's own words"


def test_a_start_that_fails_is_tried_again_and_then_told_in_one_line(monkeypatch, grid, tmp_path):
    assert run(monkeypatch, grid, Ray(starts=(False, True)))[0]["state"] == "done"
    log = tmp_path / "ray" / "session_latest" / "logs" / "raylet.err"
    log.parent.mkdir(parents=True)
    log.write_text("much\nno memory left\n")
    monkeypatch.setattr(cluster.tempfile, "gettempdir", lambda: str(tmp_path))
    with pytest.raises(UsageError, match=r"^Ray did not start here: The node did not come up\. \(raylet: no memory left\)$"):
        run(monkeypatch, grid, Ray(starts=(False, False)))
    with pytest.raises(UsageError, match=r"^Ray did not answer at auto: The node did not come up\.$"):
        run(monkeypatch, grid, Ray(starts=(False, False)), address="auto")


def test_the_mode_of_tokens_is_said_before_ray_is_imported(monkeypatch, grid):
    """Ray reads it at its import: later it has no effect."""
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    seen = []

    class Loader:
        @staticmethod
        def find_spec(name, path, target=None):
            if name == "ray":
                seen.append(os.environ.get("RAY_AUTH_MODE"))
            return None

    monkeypatch.setattr(sys, "meta_path", [Loader, *(each for each in sys.meta_path)])
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: name)
    path, made, out = grid
    with contextlib.suppress(ImportError, UsageError):
        run_ray(GridJob(path, made, out), address="127.0.0.1:1")
    assert seen[0] == "token"
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)


def test_who_is_told_to_leave_leaves_and_ends_as_before_when_terminated(monkeypatch, grid):
    ray = Ray()
    before = signal.getsignal(signal.SIGTERM)
    init = ray.init

    def own_handler(**options):
        init(**options)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))

    monkeypatch.setattr(ray, "init", own_handler)
    looks = iter(range(3))
    monkeypatch.setattr(ray, "wait", lambda references, num_returns, timeout: (next(looks), ([], references))[1])

    def told():
        with finishing():
            signal.raise_signal(SOON[0])
            run(monkeypatch, grid, ray)

    with pytest.raises(Leaving):
        told()
    assert signal.getsignal(signal.SIGTERM) is before
