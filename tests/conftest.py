"""Fixtures shared by all tests: real images where they are present."""

import importlib.util
import os
import random
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: threads only wait for each other
settings.register_profile("ironclip", deadline=None, derandomize=True, database=None)
settings.load_profile("ironclip")

torch.set_num_threads(1)  # two workers on two cores; more threads than cores wait for each other


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup() -> None:
    _seed()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    _seed()


def _seed() -> None:
    """The same global draws for a test and its fixtures, whichever tests ran before in the same worker."""
    random.seed(0)
    torch.default_generator.manual_seed(0)  # torch.manual_seed also visits absent devices, a stack trace each


@pytest.fixture(scope="session")
def hooks() -> ModuleType:
    """What writes the generated pages and tables of the site."""
    spec = importlib.util.spec_from_file_location("hooks", Path(__file__).resolve().parents[1] / "docs" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """No name of a test holds an address in memory, which would differ between the processes that share the tests."""
    if named := [item.nodeid for item in items if " at 0x" in item.nodeid]:
        raise pytest.UsageError(f"give the parameters names (ids=): {named[0]}")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real images and the lists of benchmarks, beside the checkout; tests that need it skip without it."""
    if not SHARED.is_dir():
        pytest.skip("the folder ../shared (real images, lists of benchmarks) is not beside this checkout")
    return SHARED
