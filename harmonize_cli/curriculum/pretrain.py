"""Pre-training with everything that a run may follow: a plan, validation by retrieval, recorders."""

from collections.abc import Sequence
from pathlib import Path

from harmonize_cli.curriculum.guide import Guide, make_guide
from harmonize_cli.evaluation.validation import retrieval_scores
from harmonize_cli.training.config import PretrainConfig
from harmonize_cli.training.hooks import Recorder
from harmonize_cli.training.run import Finished, Run, train_run


def pretrain(
    store: Path,
    run: Path,
    config: PretrainConfig | None = None,
    *,
    recorders: Sequence[Recorder] = (),
    curriculum: Path | None = None,
) -> Finished:
    """Train on a store into the folder `run`. Without `config`, continue the run that is there.

    Args:
        recorders: watch the steps, such as `curriculum.ledger.Ledger`.
        curriculum: a plan to follow from here on (a run that was started with one keeps it in its folder).

    Raises:
        BadInput: whatever config, store or run folder have wrong, before the first step; another process
            trains into `run`.
    """

    def guide(run: Run) -> Guide | None:
        return make_guide(
            curriculum,
            run.folder,
            run.store,
            run.rows,
            batch=run.config.batch,
            steps=run.steps,
            seed=run.config.seed,
            first=run.first,
        )

    return train_run(store, run, config, recorders=recorders, make_guide=guide, validator=retrieval_scores)
