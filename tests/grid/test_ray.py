"""Ray itself, a head and two nodes on this machine: nodes killed at random, shares of GPUs, tokens, paths that a node lacks."""

import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
from outcomes import outcomes

from ironclip.core.errors import UsageError
from ironclip.grid.cluster import carried, run_ray
from ironclip.grid.job import GridJob
from ironclip.grid.plan import plan
from ironclip.grid.state import Place
from ironclip.grid.work import work
from ironclip.records.environment import code

pytest.importorskip("ray", reason="needs the extra cluster")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray's own warnings are Ray's
KILLS = int(os.environ.get("IRONCLIP_KILLS", "5"))
GRID = """
name: wild
shard_above: 12
defaults: {backbone: mini, dataset: shapes, eps: 4/255, augment: none, set: {epochs: 1, attack.steps: 1}}
runs:
  - {method: zero_shot}
  - {method: apt, shots: 1, seed: [1, 2]}
evaluate:
  - {attacks: [pgd], set: {steps: 20}, limit: 24, batch_size: 2}
"""


def known(monkeypatch, token, mode="token"):
    """This process is one that has this token; Ray reads it once, so it is told, as in Ray's own tests."""
    from ray._private.authentication_test_utils import reset_auth_token_state

    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    reset_auth_token_state()


@pytest.fixture
def nodes(monkeypatch, tmp_path):
    """A head that does no cell, and two nodes of one CPU and one GPU each; all of them ask for a token."""
    from ray.cluster_utils import Cluster

    known(monkeypatch, "a" * 40)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # Ray's own 15 lets a busy machine starve them
    monkeypatch.delenv("PYTHONPATH", raising=False)  # so that no node finds this package but by what it is sent:
    monkeypatch.chdir(tmp_path)  # Ray gives the current folder to the nodes as a place for modules
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "num_gpus": 0, "include_dashboard": False})
    try:
        yield cluster, [cluster.add_node(num_cpus=1, num_gpus=1) for _ in range(2)]
    finally:
        cluster.shutdown()


@pytest.fixture
def grid(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text(GRID)
    return path, plan(path)


def test_nodes_killed_at_random_leave_the_records_that_nobody_disturbed(nodes, grid, tmp_path):
    path, made = grid
    work(made, tmp_path / "calm")
    undisturbed = outcomes(tmp_path / "calm")
    (cluster, alive), chance, killed, turn = nodes, random.Random(0), 0, 0
    with ThreadPoolExecutor(1) as driver:  # nodes are killed and added here: Ray starts them in the main thread alone
        while killed < KILLS:
            turn, events = turn + 1, []
            job = GridJob(path, made, tmp_path / f"wild{turn}", device="auto", callback=events.append)
            running = driver.submit(run_ray, job, gpus=0.5, address=cluster.address)
            while not wait([running], timeout=chance.uniform(4, 12)).done and killed < KILLS:
                cluster.remove_node(alive.pop(chance.randrange(2)), allow_graceful=False)
                alive.append(cluster.add_node(num_cpus=1, num_gpus=1))
                killed += 1
            running.result()
            print(f"turn {turn}: {killed} nodes killed", flush=True)
            assert sorted(event["state"] for event in events) == ["done"] * 3, events
            assert outcomes(job.out) == undisturbed


def test_a_node_gets_the_package_and_the_variables_of_the_driver(nodes, monkeypatch):
    import ray

    monkeypatch.setenv("IRONCLIP_DATA", "/data")

    def there():
        import ironclip
        from ironclip.records.environment import code

        return ironclip.__file__, code(), os.environ["IRONCLIP_DATA"]

    ray.init(address=nodes[0].address, runtime_env=carried(), log_to_driver=False)
    try:
        file, hashed, data = ray.get(ray.remote(num_cpus=1)(there).remote())
    finally:
        ray.shutdown()
    assert "runtime_resources" in file, "as it was sent, not as it may be installed there"
    assert (hashed, data) == (code(), "/data")


def test_a_path_that_a_node_lacks_and_a_token_that_it_does_not_know(nodes, grid, tmp_path, monkeypatch):
    path, made = grid
    cluster, _ = nodes
    path.unlink()
    run_ray(GridJob(path, made, tmp_path / "out"), address=cluster.address)
    for cell in made.cells:
        reason = Place(tmp_path / "out", cell).read()["reason"]
        assert reason.endswith("all nodes of a cluster must see the same folders"), reason
    known(monkeypatch, "b" * 40)
    with pytest.raises(UsageError, match=f"^Ray did not answer at {cluster.address}: "):
        run_ray(GridJob(path, made, tmp_path / "out"), address=cluster.address)


def test_a_share_of_a_gpu_is_what_ray_counts(nodes, grid, tmp_path):
    import ray

    path, made = grid
    cluster, _ = nodes
    most, events = 0, []
    over = threading.Event()

    def watch():
        nonlocal most
        while not over.wait(0.3):
            states = ray.cluster_resources(), ray.available_resources()
            most = max(most, states[0].get("GPU", 0) - states[1].get("GPU", 0))

    watcher = threading.Thread(target=watch)
    ray.init(address=cluster.address, runtime_env=carried())  # run_ray keeps this connection
    watcher.start()
    try:
        began = time.monotonic()
        job = GridJob(path, made, tmp_path / "out", device="auto", callback=events.append)
        run_ray(job, gpus=0.25, address=cluster.address)
    finally:
        over.set()
        watcher.join()
    print(f"{time.monotonic() - began:.0f} s; GPUs in use at most {most}; {os.cpu_count()} cores")
    assert sorted(event["state"] for event in events) == ["done"] * 3, events
    assert most == 0.5, "two cells at a time, for there are two CPUs, and a quarter each"
