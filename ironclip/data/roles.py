"""The split that a folder, a column or a value means: by the words in its name, or by the option layout."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ironclip.core.errors import UsageError, unknown

KINDS = ("auto", "classes", "splits", "class/split")
_TRAIN = (
    "train training trn trainval trainings trainingsdaten lernen apprentissage entrainement entraînement entrenamiento treino "
    "treinamento addestramento trening eğitim egitim обучение обучающая трейн 训练 訓練 学習 訓練用 학습 훈련"
)
_VAL = (
    "val valid validation validate validating dev devel development validierung validierungsdaten validación validacion "
    "validação validacao validazione walidacja doğrulama dogrulama валидация проверка 验证 驗證 検証 검증"
)
_TEST = "test testing tst tests testdaten prüfung pruefung prueba pruebas teste testes тест тестовая 测试 測試 テスト 테스트"
WORDS = {
    **dict.fromkeys(_TRAIN.split(), "train"),
    **dict.fromkeys(_VAL.split(), "val"),
    **dict.fromkeys(_TEST.split(), "test"),
    **dict.fromkeys(("eval", "evaluation", "holdout", "heldout"), "held"),  # test, or val where there is a test
}
"""The meaning of the words for splits in common languages."""
NEUTRAL = {
    *("set", "sets", "data", "dataset", "image", "images", "img", "imgs", "pictures", "photos", "split", "folder", "samples"),
    *("daten", "bilder", "datos", "dados", "dati", "données", "данные", "集", "数据", "数据集", "データ", "用データ", "データ集"),
}
_GLUED = re.compile(rf"({'|'.join(sorted(WORDS, key=len, reverse=True))})({'|'.join(sorted(NEUTRAL, key=len, reverse=True))})")


@dataclass(frozen=True)
class Layout:
    """How a folder is to be read. kind: one of KINDS, or `named`: `parts` says which folder (or value) is which split."""

    kind: str = "auto"
    parts: Mapping[str, str] = field(default_factory=dict)


def parse_layout(text: str) -> Layout:
    """The layout that a user asked for: `classes`, `splits`, `class/split`, or `fold1=train,fold2=test,old=skip`.

    Raises:
        UsageError: another word.
    """
    if "=" not in text:
        if text not in KINDS:
            raise unknown("layout", text, [*KINDS, "NAME=train,NAME=test"])
        return Layout(text)
    parts: dict[str, str] = {}
    for pair in text.split(","):
        name, _, split = (part.strip() for part in pair.rpartition("="))
        if not name or split not in ("train", "val", "test", "skip"):
            raise UsageError(f"a layout names folders and their split: NAME=train, val, test or skip; got {pair.strip()!r}")
        parts[name] = split
    return Layout("named", parts)


def words(name: str) -> list[str]:
    """The words of a name in small letters: `segTrain_2` -> seg, train."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", unicodedata.normalize("NFKC", name))
    apart = re.sub(r"hold[ _-]?out|held[ _-]?out", "holdout", apart, flags=re.IGNORECASE)
    found: list[str] = []
    for word in re.findall(r"[^\W\d_]+", apart):
        glued = _GLUED.fullmatch(word.lower())
        found += list(glued.groups()) if glued else [word.lower()]
    return found


def neutral(name: str) -> bool:
    """Whether a name only says that images are inside: `images`, `data`."""
    return all(word in NEUTRAL for word in words(name))


def _read(name: str) -> tuple[str, frozenset[str]] | None:
    """(role, words besides it) of a name with exactly one role among its words."""
    found = words(name)
    meant = {WORDS[word] for word in found if word in WORDS}
    if len(meant) != 1:
        return None
    return meant.pop(), frozenset(word for word in found if word not in WORDS and word not in NEUTRAL)


def wraps(name: str) -> bool:
    """Whether a name has words, and they say nothing but that images are inside: `images`, but not `0`."""
    return bool(words(name)) and neutral(name)


def roles(names: Iterable[str]) -> dict[str, str]:
    """{name: train, val or test} of those names that mean splits of one set.

    Names belong together whose other words are the same: `seg_train` and `seg_test`, not `train_station` and `crash_test`.
    Where two names would both be `held` (two of eval and holdout), nothing is decided.
    """
    groups: dict[frozenset[str], dict[str, str]] = defaultdict(dict)
    for name in names:
        read = _read(name)
        if read is not None:
            groups[read[1]][name] = read[0]
    if not groups:
        return {}
    found = max(groups.items(), key=lambda group: (len(set(group[1].values())), not group[0], len(group[1])))[1]
    held = [name for name, role in found.items() if role == "held"]
    free = [role for role in ("test", "val") if role not in found.values()]
    if not held:
        return found
    if len(held) > 1 or not free:
        return {name: role for name, role in found.items() if role != "held"}
    return {**found, held[0]: free[0]}
