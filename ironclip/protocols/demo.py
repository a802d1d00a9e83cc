"""The main job on embedded defaults: a small CLIP, generated pictures, an attack, a defence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ironclip.protocols import repeat
from ironclip.protocols.few_shot import open_run, train
from ironclip.protocols.measure import evaluate
from ironclip.protocols.resolve import named_attacks, resolve
from ironclip.runs.folder import RunFolder

EPS = 2 / 255
RADII = (2 / 255, 1 / 255, 4 / 255, 8 / 255)
ROWS = (("zero_shot", "mini"), ("nap", "mini"), ("zero_shot", "mini-robust"))
SETTINGS = ["shots=8", "epochs=6", "lr=0.02", "warmup_epochs=0", "attack.steps=2", "relative_step=1.0"]
FULL = {"limit": 100, "steps": 20}
QUICK = {"limit": 24, "steps": 2}


def run_demo(
    *,
    root: Path = Path("runs"),
    seed: int = 1,
    device: str = "cpu",
    quick: bool = False,
    progress: Callable[[str], Callable[[dict[str, Any]], None]] = lambda label: lambda event: None,
) -> list[RunFolder]:
    """The evaluated runs, undefended first; each attacked at several radii, the headline radius first.

    Args:
        progress: label -> callback for training and evaluation events.
    """
    size = QUICK if quick else FULL
    runs = []
    for method, backbone in ROWS:
        learns = method != "zero_shot"
        changes = [*SETTINGS, *(["epochs=1", "shots=1"] if quick else [])] if learns else []
        preset = f"{method}/quick" if learns else None
        config = resolve(method, "shapes", preset=preset, given={"backbone": backbone, "seed": seed, "eps": EPS}, changes=changes)
        run = train(config, root=root, device=device, callback=progress(f"train {method} on {backbone}"))
        run, experiment = open_run(run.path, device=device)
        for eps in RADII:
            options = [f"steps={size['steps']}", "mode=compact"]
            named = named_attacks(["pgd"], eps, 0, options)
            evaluate(
                run,
                experiment,
                named,
                eps=eps,
                limit=size["limit"],
                batch_size=50,
                keep_examples=4,
                command=repeat.evaluation(run, experiment, ["pgd"], eps, changes=options, limit=size["limit"], batch_size=50),
                callback=progress(f"attack {method} on {backbone} at {eps * 255:.0f}/255"),
            )
        runs.append(run)
    return runs
