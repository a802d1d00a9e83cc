"""Checks of the values of a grid file before anything is loaded or trained.

Options of a trained method depend on the backbone, so that values outside its layers show when a cell begins.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ironclip import testtime
from ironclip.core.errors import UsageError, unknown
from ironclip.grid.file import Measure
from ironclip.grid.select import meant
from ironclip.protocols import methods
from ironclip.protocols.config import RunConfig
from ironclip.protocols.few_shot import training_attack
from ironclip.protocols.resolve import named_attacks, test_time_options
from ironclip.protocols.sources import check_source
from ironclip.protocols.suites import SUITES
from ironclip.protocols.targeted import check_targeted


def check_run(config: RunConfig) -> None:
    """The attack of the training and the test-time method of a run.

    Raises:
        UsageError: an unknown name or option, or a value that it refuses.
    """
    training_attack(config)
    _, above = methods.split(config.method)
    if above is not None:
        testtime.build(above, methods.divide(config.method, config.options)[1])


def built(measure: Measure, eps: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """(attacks by name, options of the test-time method) of a measure at one of its radii.

    Raises:
        UsageError: an unknown name or option, or a value that it refuses.
    """
    adapts, changes = test_time_options(measure.test_time, measure.changes)
    check_source(measure.knowledge, measure.source)
    under: dict[str, Any] = {"norm": measure.norm, "knowledge": measure.knowledge}
    attacks = named_attacks(measure.attacks, eps, measure.seed, changes, **under)
    check_targeted(measure.targeted, measure.knowledge, attacks.values())
    return attacks, adapts


def check_measures(measures: Sequence[Measure], runs: Sequence[Mapping[str, Any]]) -> None:
    """Every measure of a file, and that each is for one at least of its runs, which are given by their settings.

    Raises:
        UsageError: what is wrong, and with which measure, counted from 1.
    """
    for number, measure in enumerate(measures, 1):
        try:
            _check(measure, runs)
        except UsageError as error:
            raise UsageError(f"measure {number}: {error}") from None


def _check(measure: Measure, runs: Sequence[Mapping[str, Any]]) -> None:
    for eps in measure.eps:
        _, adapts = built(measure, eps)
        if measure.test_time is not None:
            testtime.build(measure.test_time, adapts)
    if measure.suite is not None and measure.suite not in SUITES:
        raise unknown("suite", measure.suite, SUITES)
    if measure.suite is not None and (measure.data is not None or measure.subset is not None):
        raise UsageError(f"a measure has either a suite or other data; got suite {measure.suite!r} with data or subset")
    present = {settings["method"] for settings in runs}
    for method in measure.methods:
        if method not in present:
            raise unknown("method of this grid's runs", method, sorted(present))
    if not any(meant(measure, settings) for settings in runs):
        of = f" among those of {', '.join(measure.methods)}" if measure.methods else ""
        raise UsageError(f"no run of the grid agrees with only {measure.only}{of}")
