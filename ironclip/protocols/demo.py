"""The main job on embedded defaults: a small CLIP, generated images, an attack, a defence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ironclip.attacks import DEFAULT
from ironclip.protocols import repeat
from ironclip.protocols.few_shot import open_run, train
from ironclip.protocols.measure import evaluate_run
from ironclip.protocols.resolve import named_attacks, resolve
from ironclip.records.folder import RunFolder

EPS = 2 / 255
RADII = (2 / 255, 4 / 255, 8 / 255)
ROWS = (("zero_shot", "mini"), ("nap", "mini"), ("zero_shot", "mini-robust"))
SETTINGS = ["shots=8", "epochs=6", "lr=0.002", "warmup_epochs=0", "attack.steps=2", "relative_step=1.0"]


def run_demo(
    *,
    root: Path = Path("runs"),
    seed: int = 1,
    device: str = "cpu",
    quick: bool = False,
    progress: Callable[[str], Callable[[dict[str, Any]], None]] = lambda label: lambda event: None,
) -> list[RunFolder]:
    """The evaluated runs, undefended first; each attacked at several radii, the headline radius first.

    The attack is the default worst case; `quick`: two steps of PGD, on one loss and marked so.

    Args:
        progress: label -> callback for training and evaluation events.
    """
    names, options, limit = (["pgd"], ["steps=2", "mode=compact"], 24) if quick else ([DEFAULT], [], 50)
    runs = []
    for method, backbone in ROWS:
        learns = method != "zero_shot"
        changes = [*SETTINGS, *(["epochs=1", "shots=1"] if quick else [])] if learns else []
        preset = f"{method}/quick" if learns else None
        config = resolve(method, "shapes", preset=preset, given={"backbone": backbone, "seed": seed, "eps": EPS}, changes=changes)
        run = train(config, root=root, device=device, callback=progress(f"train {method} on {backbone}"))
        run, experiment = open_run(run.path, device=device)
        for eps in RADII:
            named = named_attacks(names, eps, 0, options)
            evaluate_run(
                run,
                experiment,
                named,
                eps=eps,
                limit=limit,
                batch_size=50,
                keep_examples=4,
                command=repeat.evaluation_command(run, experiment, names, eps, changes=options, limit=limit, batch_size=50),
                callback=progress(f"attack {method} on {backbone} at {eps * 255:.0f}/255"),
            )
        runs.append(run)
    return runs
