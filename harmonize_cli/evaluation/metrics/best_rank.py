"""MedR and MeanR: median and mean over queries of the best right answer's rank."""

from harmonize_cli.evaluation.metrics import Metric, Ranking, register
from harmonize_cli.evaluation.statistics import Statistic


def _chance(ranking: Ranking) -> float | None:
    return (ranking.gallery + 1) / 2 if ranking.single else None


_KINDS: tuple[tuple[str, Statistic], ...] = (("MedR", "median"), ("MeanR", "mean"))
for _order, (_name, _statistic) in enumerate(_KINDS, start=10):
    register(
        Metric(
            _name,
            f"{_statistic} rank of the first right answer",
            ("retrieval",),
            compute=lambda ranking: ranking.best,
            column="rank",
            statistic=_statistic,
            lower_is_better=True,
            chance=_chance,
            headline=_name == "MedR",
            order=_order,
        )
    )
