"""`runs/last` is what the user trained last, never another run; every verb says which run it took."""

import json
from pathlib import Path

QUICK = ("--set", "epochs=1", "--set", "attack.steps=1", "--set", "length=2", "--shots", "1", "--device", "cpu")


def test_last_is_never_another_run(ironclip, photos: Path, tmp_path: Path) -> None:
    train = ("train", "apt", "--data", str(photos), *QUICK)
    trained = Path(json.loads(ironclip(*train, "--json")[1])["run"])
    code, _, _ = ironclip("evaluate", "mini", "--data", "shapes", "--attack", "fgsm", "--limit", "2")
    assert code == 0
    assert len(list(tmp_path.glob("runs/*/config.yaml"))) == 2
    for verb in (("evaluate", "runs/last", "--attack", "fgsm"), ("classify", str(photos), "--model", "runs/last"),
                 ("attack", "runs/last", "--save", "adv", "--set", "steps=1"), ("save", "runs/last", "shared"),
                 ("report", "runs/last"), ("verify", "runs/last"), ("show", "runs/last")):  # fmt: skip
        code, said, noted = ironclip(*verb)
        assert code == 0, noted
        assert str(trained) in (said if verb[0] == "show" else noted), verb
    assert ironclip(*train, "--dry-run")[0] == 0
    assert ironclip("show", "runs/last")[0] == 0
    for wrong in (("--shots", "99"), ("--shots", "many"), ("--set", "lenght=2"), ("--nonsense",)):
        assert ironclip(*train[:4], *wrong)[0] == 2
        code, _, complaint = ironclip("evaluate", "runs/last")
        assert code == 2
        assert "names no run, for the last training was refused" in complaint
        assert ironclip(*train)[0] == 0
        assert trained.name in ironclip("show", "runs/last")[1]
