"""The manifests for Kubernetes: fields that exist, values of their kind, what refers to what, and commands that parse.

No schema of Kubernetes is downloaded: `SHAPES` holds the fields that the manifests use, with their kinds, from the references of
Kubernetes 1.31 (Job, Pod) and KubeRay 1.6 (RayJob). A field that is not there is an error of the manifest or a line to add here.
"""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "kubernetes"
FILES = sorted(FOLDER.glob("*.yaml"))
QUANTITY = re.compile(r"\d+(\.\d+)?(m|Ki|Mi|Gi|Ti|k|M|G)?")
META = {"name!": str}
MOUNT = {"name!": str, "mountPath!": str, "readOnly": bool}
VOLUME = {"name!": str, "persistentVolumeClaim": {"claimName!": str}}
EXEC = {"exec!": {"command!": [str]}}
CONTAINER = {
    "name!": str, "image!": str, "command": [str], "env": [{"name!": str, "value!": str}], "lifecycle": {"preStop": EXEC},
    "resources": {"limits": {"*": QUANTITY}, "requests": {"*": QUANTITY}}, "volumeMounts": [MOUNT],
}  # fmt: skip
POD = {
    "restartPolicy": str, "terminationGracePeriodSeconds": int, "containers!": [CONTAINER], "volumes": [VOLUME],
    "securityContext": {"runAsNonRoot": bool, "runAsUser": int, "fsGroup": int},
}  # fmt: skip
GROUP = {"rayStartParams!": {"*": str}, "template!": {"spec!": POD}}
WORKERS = GROUP | {"groupName!": str, "replicas": int, "minReplicas": int, "maxReplicas": int}
SHAPES: dict[tuple[str, str], Any] = {
    ("batch/v1", "Job"): {
        "apiVersion!": str, "kind!": str, "metadata!": META,
        "spec!": {
            "parallelism": int, "completions": int, "completionMode": str, "backoffLimitPerIndex": int, "backoffLimit": int,
            "ttlSecondsAfterFinished": int, "template!": {"spec!": POD},
        },
    },
    ("ray.io/v1", "RayJob"): {
        "apiVersion!": str, "kind!": str, "metadata!": META,
        "spec!": {
            "entrypoint!": str, "shutdownAfterJobFinishes": bool, "ttlSecondsAfterFinished": int, "backoffLimit": int,
            "rayClusterSpec!": {
                "rayVersion": str, "authOptions": {"mode!": str}, "headGroupSpec!": GROUP, "workerGroupSpecs": [WORKERS],
            },
        },
    },
}  # fmt: skip


def wrong(value: Any, shape: Any, where: str = "") -> list[str]:
    """What of a value is not of the shape, by place."""
    if isinstance(shape, re.Pattern):
        return [] if shape.fullmatch(str(value)) and not isinstance(value, bool) else [f"{where}: {value!r} is no quantity"]
    if isinstance(shape, type):
        return [] if type(value) is shape else [f"{where}: {value!r} is no {shape.__name__}"]
    if isinstance(shape, list):
        if not isinstance(value, list) or not value:
            return [f"{where}: {value!r} is no list"]
        return [each for number, part in enumerate(value) for each in wrong(part, shape[0], f"{where}[{number}]")]
    if not isinstance(value, dict):
        return [f"{where}: {value!r} is no mapping"]
    known = {key.rstrip("!"): part for key, part in shape.items()}
    found = [f"{where}.{key} is missing" for key in (key[:-1] for key in shape if key.endswith("!")) if key not in value]
    for key, part in value.items():
        found += wrong(part, known[key], f"{where}.{key}") if key in known else (
            wrong(part, known["*"], f"{where}.{key}") if "*" in known else [f"{where}.{key} is not known"]
        )  # fmt: skip
    return found


def pods(value: Any) -> list[dict[str, Any]]:
    """The specs of all pods in a manifest."""
    if isinstance(value, dict):
        return [value] if "containers" in value else [pod for part in value.values() for pod in pods(part)]
    return [pod for part in value for pod in pods(part)] if isinstance(value, list) else []


def parses(words: list[str]) -> None:
    from ironclip.cli import app

    group, (program, *arguments) = get_command(app), words
    assert program == "ironclip"
    while hasattr(group, "commands"):
        name, *arguments = arguments
        group = group.commands[name]
    group.make_context(name, list(arguments))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_manifest_has_the_fields_of_its_kind(path):
    manifest = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert wrong(manifest, SHAPES[manifest["apiVersion"], manifest["kind"]]) == []
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", manifest["metadata"]["name"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_is_mounted_is_there_and_a_gpu_is_a_limit(path):
    found = pods(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert found
    for pod in found:
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            mounted = [mount["name"] for mount in container["volumeMounts"]]
            assert set(mounted) == volumes
            assert not any("gpu" in name for name in container["resources"]["requests"]), "Kubernetes takes GPUs as limits alone"


def test_the_commands_are_command_lines_of_ironclip():
    job, ray = (yaml.safe_load((FOLDER / f"{name}.yaml").read_text()) for name in ("evaluate-job", "grid-rayjob"))
    (container,) = job["spec"]["template"]["spec"]["containers"]
    parses(container["command"])
    parses(shlex.split(ray["spec"]["entrypoint"]))
    with pytest.raises(Exception, match="No such option"):
        parses([*container["command"], "--shards", "3"])


def test_an_error_in_a_manifest_would_be_seen():
    job = yaml.safe_load((FOLDER / "evaluate-job.yaml").read_text())
    shape = SHAPES["batch/v1", "Job"]
    pod = job["spec"]["template"]["spec"]
    pod["container"] = pod.pop("containers")
    assert wrong(job, shape) == [".spec.template.spec.containers is missing", ".spec.template.spec.container is not known"]
    pod["containers"] = pod.pop("container")
    pod["containers"][0]["env"][0]["value"] = 4
    pod["containers"][0]["resources"]["limits"]["memory"] = "32 GB"
    assert [line.split(":")[0] for line in wrong(job, shape)] == [
        ".spec.template.spec.containers[0].env[0].value", ".spec.template.spec.containers[0].resources.limits.memory",
    ]  # fmt: skip
