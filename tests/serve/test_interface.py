"""The OpenAPI document is true: schemathesis asks a live service what the document allows and what it forbids (`make live`)."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

TESTS = Path(__file__).resolve().parents[1]
SCHEMATHESIS = shutil.which(os.environ.get("SCHEMATHESIS", "schemathesis"))
CONFIG = Path(__file__).with_name("schemathesis.toml")
EXAMPLES = os.environ.get("SCHEMATHESIS_EXAMPLES", "25")
SERVICE = """
from ironclip.serve.limits import Limits
from ironclip.serve.run import serve
from serve.conftest import served

say = lambda text: print(text, flush=True)
limits = Limits(attack_steps=4)
print("counts", *serve(served(), limits, host="127.0.0.1", port=0, token=None, ready=say), flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(not SCHEMATHESIS, reason="schemathesis is not installed; `make live` installs and runs it")
def test_the_service_does_what_its_interface_document_says(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", SERVICE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        address = process.stdout.readline().strip()
        command = [SCHEMATHESIS, "--config-file", str(CONFIG), "run", f"{address}/openapi.json", "--max-examples", EXAMPLES]
        done = subprocess.run([*command, "--seed", "1", "--no-color"], cwd=tmp_path, capture_output=True, text=True, timeout=1500)
        print(done.stdout[-1500:])
        alive = process.poll() is None
        process.send_signal(signal.SIGTERM)
        out, complaint = process.communicate(timeout=60)
    finally:
        process.kill()
    assert done.returncode == 0, done.stdout[:6000]
    assert alive
    accepted, answered = out.split()[1:]
    assert accepted == answered
    assert "Traceback" not in complaint
