"""What `ironclip serve` refuses before it loads or listens."""

import socket
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from ironclip.core.errors import CheckpointError, IronclipError, UsageError
from ironclip.serve.hosts import is_loopback
from ironclip.serve.limits import Limits, Refusal
from ironclip.serve.model import of_experiment, open_model
from ironclip.serve.run import serve


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_batch": 0}, "max_batch"),
        ({"seconds": 0}, "seconds"),
        ({"max_wait": -1}, "max_wait"),
        ({"max_queue": 1.5}, "max_queue"),
    ],
)
def test_limits_that_cannot_be_right(options: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Limits(**options)


def test_a_port_that_is_taken_is_named(model) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"127.0.0.1:{port}.*--port"):
            serve(model, Limits(), host="127.0.0.1", port=port, token=None, ready=print)


def test_what_is_no_run_and_no_exported_file(tmp_path: Path) -> None:
    with pytest.raises(IronclipError, match="run"):
        open_model(tmp_path / "none")
    with pytest.raises(CheckpointError, match="no such file"):
        open_model(tmp_path / "none.onnx")


def test_which_hosts_are_this_machine() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "192.168.1.1", "::", "example.org")))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.1", "example.org"])
def test_a_public_address_wants_a_token_or_a_word(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from ironclip.cli.common import app

    started: list[str] = []
    monkeypatch.setattr("ironclip.serve.model.open_model", lambda target, **others: None)
    monkeypatch.setattr("ironclip.serve.run.serve", lambda model, limits, *, host, **others: started.append(host) or (0, 0))
    monkeypatch.delenv("IRONCLIP_TOKEN", raising=False)
    refused = CliRunner().invoke(app, ["serve", "run", "--host", host])
    assert isinstance(refused.exception, UsageError)
    assert "--token" in str(refused.exception)
    assert "--insecure" in str(refused.exception)
    assert not started
    for more in (["--insecure"], ["--token", "secret"]):
        assert CliRunner().invoke(app, ["serve", "run", "--host", host, *more]).exit_code == 0
    assert started == [host, host]


def test_a_refusal_is_one_line() -> None:
    assert Refusal(422, "two\nlines\x1b[31m").text == "two lines [31m"


def test_a_run_is_served_beside_undefended_clip_with_examples() -> None:
    import torch

    from ironclip.protocols.experiment import open_experiment
    from ironclip.protocols.resolve import resolve

    experiment = open_experiment(resolve("zero_shot", "shapes", given={"shots": 1}))
    served = of_experiment(experiment)
    assert list(served.functions) == ["defended", "undefended"]
    assert len(served.examples) == 8
    (name, image), *_ = served.examples
    assert name in served.classes
    with torch.no_grad():
        torch.testing.assert_close(served.functions["defended"](image[None]), experiment.classifier(image[None]))
        torch.testing.assert_close(served.functions["undefended"](image[None]), served.functions["defended"](image[None]))
    assert not any(parameter.requires_grad for parameter in served.functions["defended"].parameters())
