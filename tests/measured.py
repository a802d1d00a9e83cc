"""One small evaluation, made up: its setup, its samples and the constants of its attacks."""

from ironclip.core.threat import Threat
from ironclip.records.record import BackboneFacts, DataFacts, Sample, Setup

EPS = 4 / 255
CONFIG = {"method": "nap", "dataset": "toy", "backbone": "mini", "shots": 16, "seed": 1}
SETUP = Setup(
    method="nap",
    backbone=BackboneFacts(name="mini", sha256="f00"),
    data=DataFacts(name="toy", classes=("a", "b", "c"), label_space=3, available=6),
    threat=Threat(eps=EPS, resolution=64),
    shots=16,
    seed=1,
)
SAMPLES = [
    Sample(index=0, label=0, clean=0, adversarial={"pgd": 1}, clean_margin=-2, margin=0.5, distance=EPS, broken_by="pgd"),
    Sample(index=1, label=1, clean=1, adversarial={"pgd": 1, "cw": 1}, clean_margin=-3, margin=-0.1, distance=EPS),
    Sample(index=2, label=1, clean=0, clean_margin=1, margin=1, broken_by="clean"),
    Sample(index=4, label=2, clean=2, adversarial={"pgd": 2, "cw": 0}, clean_margin=-1, margin=1, distance=EPS, broken_by="cw"),
]  # fmt: skip
ATTACKS = {name: {"attack": name, "eps": EPS, "steps": 10, "derived": {}} for name in ("pgd", "cw")}
