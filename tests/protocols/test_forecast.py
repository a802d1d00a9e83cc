"""A training says how long it is before it begins."""

from ironclip.protocols.experiment import open_experiment
from ironclip.protocols.few_shot import train
from ironclip.protocols.forecast import forecast
from ironclip.protocols.resolve import resolve


def test_the_steps_said_before_are_the_steps_made(tmp_path) -> None:
    config = resolve("apt", "shapes", given={"shots": 1}, changes=["epochs=2", "batch_size=4", "attack.steps=1", "length=2"])
    experiment = open_experiment(config)
    said = forecast(experiment)
    steps = []
    train(
        config,
        root=tmp_path,
        experiment=experiment,
        callback=lambda event: steps.append(event) if event["event"] == "step" else None,
    )
    assert said is not None
    assert said.steps == len(steps) > 2
    assert (said.epochs, said.batch, said.inner) == (2, 4, 1)
    assert said.seconds > 0


def test_nothing_is_forecast_where_nothing_is_trained() -> None:
    assert forecast(open_experiment(resolve("zero_shot", "shapes", given={}))) is None
