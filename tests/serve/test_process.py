"""The service as a process: told to go while requests are under way, it answers all that it accepted."""

import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from serve.conftest import png

pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

SERVICE = """
import time, torch
from ironclip.serve.limits import Limits
from ironclip.serve.model import Served
from ironclip.serve.run import serve

def slow(images):
    time.sleep(0.3)
    return images.flatten(1)[:, :3]

model = Served(("a", "b", "c"), 8, {"defended": slow}, {})
say = lambda text: print(text, flush=True)
print("counts", *serve(model, Limits(max_batch=4), host="127.0.0.1", port=0, token=None, ready=say), flush=True)
"""


def ask(address: str, answers: list[str]) -> None:
    body = b'--b7\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n' + png() + b"\r\n--b7--\r\n"
    request = urllib.request.Request(f"{address}/classify", body, {"Content-Type": "multipart/form-data; boundary=b7"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            answers.append("answered" if b'"predictions"' in answer.read() else "odd")
    except urllib.error.HTTPError as refusal:
        answers.append(f"refused {refusal.code}")
    except OSError:
        answers.append("not accepted")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_under_load_loses_nothing_that_was_accepted(number: signal.Signals) -> None:
    process = subprocess.Popen([sys.executable, "-c", SERVICE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        address = process.stdout.readline().strip()
        answers: list[str] = []
        asking = [threading.Thread(target=ask, args=(address, answers)) for _ in range(24)]
        for thread in asking:
            thread.start()
        while len(answers) < 4:  # the first batch is through, the others wait
            assert process.poll() is None
        process.send_signal(number)
        for thread in asking:
            thread.join(60)
        out, complaint = process.communicate(timeout=60)
    finally:
        process.kill()
    accepted, answered = map(int, re.search(r"counts (\d+) (\d+)", out).groups())
    assert accepted == answered == answers.count("answered")
    assert accepted > 4, "there was load when the signal came"
    assert set(answers) <= {"answered", "refused 503", "not accepted"}
    assert len(answers) == 24
    assert process.returncode == 0
    assert "Traceback" not in complaint


@pytest.mark.slow
def test_the_verb_serves_a_run_and_ends_in_order(tmp_path: Path) -> None:
    from ironclip.protocols.few_shot import train
    from ironclip.protocols.resolve import resolve

    run = train(resolve("zero_shot", "shapes", given={}), out=tmp_path / "run")
    command = [
        sys.executable,
        "-c",
        "from ironclip.cli import main; main()",
        "serve",
        str(run.path),
        "--port",
        "0",
        "--device",
        "cpu",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "IRONCLIP_TOKEN": ""})
    try:
        address = re.search(r"at (http://\S+)", process.stderr.readline()).group(1)
        answers: list[str] = []
        ask(address, answers)
        assert answers == ["answered"]
        with urllib.request.urlopen(f"{address}/") as page:
            assert b"<title>ironclip</title>" in page.read()
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    assert said.strip() == "ended: 1 image accepted, 1 answered"
