"""What is known of the mistakes of a classifier: how many, how severe, beside best and chance."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from neuralcollapse.metrics.mistakes import (
    MISTAKE_METRICS,
)


@dataclass(frozen=True, eq=False)
class Mistakes:
    """How many decisions are wrong, how severely, and what could be had at best and by chance.

    Attributes:
        num_samples: N.
        num_mistakes: how many are wrong.
        values: by key: `accuracy`, `mistake_severity`, `hierarchical_distance@k`,
            `preference_score@k`, `lca_accuracy@level` and `calibration_error`; nan where undefined.
        undefined: the reason for each nan.
        best: the same by a perfect ranking of all samples, in order of distance to the truth. The
            severity's is that of mistakes that all fall on the nearest other class.
        chance: the same by a uniformly random ranking; the severity's is that of mistakes that
            fall on any other class.
        severities: the distances that occur among the mistakes, ascending, with their counts.
        conventions: what was assumed.

    Everything is a function of counts: the numbers do not depend on how the samples were cut into
    batches, or on their order. hierarchical_distance@1 = mistake_severity * (1 - accuracy).
    """

    num_samples: int
    num_mistakes: int
    values: Mapping[str, float]
    undefined: Mapping[str, str]
    best: Mapping[str, float]
    chance: Mapping[str, float]
    severities: Mapping[float, int]
    conventions: Mapping[str, str]

    @property
    def accuracy(self) -> float:
        """Share of the decisions that are right; nan without samples."""
        return self.values["accuracy"]

    @property
    def severity(self) -> float:
        """Mean distance of the mistakes; nan where nothing is wrong."""
        return self.values["mistake_severity"]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; None for what is undefined."""

        def plain(numbers: Mapping[str, float]) -> dict[str, float | None]:
            return {key: None if math.isnan(x) else x for key, x in numbers.items()}

        return {
            "num_samples": self.num_samples,
            "num_mistakes": self.num_mistakes,
            "values": plain(self.values),
            "undefined": dict(self.undefined),
            "best": plain(self.best),
            "chance": plain(self.chance),
            "severities": [[distance, count] for distance, count in self.severities.items()],
            "conventions": dict(self.conventions),
        }

    def __str__(self) -> str:
        """A table with bounds beside the values, and every convention below it."""

        def shown(number: float | None) -> str:
            return f"{'-':>10}" if number is None or math.isnan(number) else f"{number:>10.4g}"

        lines = [f"{'metric':<26} {'value':>10} {'best':>10} {'chance':>10}  meaning"]
        meanings = {metric.key: metric.summary for metric in MISTAKE_METRICS}
        for key, value in self.values.items():
            meaning = meanings.get(key.partition("@")[0], "decisions that are right")
            numbers = (value, self.best.get(key), self.chance.get(key))
            lines.append(f"{key:<26} {' '.join(map(shown, numbers))}  {meaning}")
        reasons: dict[str, list[str]] = {}
        for key, reason in self.undefined.items():
            reasons.setdefault(reason, []).append(key)
        lines += [f"undefined: {', '.join(keys)}: {reason}" for reason, keys in reasons.items()]
        lines.append(f"samples: {self.num_samples}, of which wrong: {self.num_mistakes}")
        lines += [f"{name}: {value}" for name, value in self.conventions.items()]
        return "\n".join(lines)
