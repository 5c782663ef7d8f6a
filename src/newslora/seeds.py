"""One setting over several seeds: a run for each in its own folder, then mean, spread and interval."""

import shutil
from collections.abc import Callable
from pathlib import Path

from newslora.baseline import train_baseline
from newslora.config import RunConfig, change
from newslora.errors import NewsloraError
from newslora.evaluation.seeds import write_seeds
from newslora.training.processes import from_main
from newslora.training.run_folder import RunFolder
from newslora.workflow import Report, train

Single = Callable[[RunConfig, Path, bool], RunFolder]


def train_seeds(
    config: RunConfig, output: str | Path, *, resume: bool = False, report: Report = lambda _: None
) -> RunFolder:
    """Train a setting once with each of ``train.seeds``, into ``seed-0`` and so on, and write ``seeds.json``.

    Args:
        config: The settings; ``train.seeds`` must be given.
        output: The folder; it must be new or empty, unless ``resume``.
        resume: Keep the seeds that are finished, go on with the one that was interrupted, train the rest.
        report: As for :func:`newslora.workflow.train`.

    Returns:
        The folder, with a run folder for each seed.

    Raises:
        NewsloraError: The data, the settings or the folder are at fault, or a finished seed has other settings.
    """
    return _each_seed(
        config, Path(output), lambda c, place, again: train(c, place, resume=again, report=report), resume
    )


def baseline_seeds(
    name: str, config: RunConfig, output: str | Path, *, resume: bool = False, report: Report = lambda _: None
) -> RunFolder:
    """Do as :func:`train_seeds` with a baseline; the seed decides which rows it is given, and fastText's start."""

    def single(own: RunConfig, place: Path, again: bool) -> RunFolder:
        if again:  # a baseline has no checkpoint to go on from
            shutil.rmtree(place)
        return train_baseline(name, own, place, report=report)

    return _each_seed(config, Path(output), single, resume)


def _each_seed(config: RunConfig, output: Path, single: Single, resume: bool) -> RunFolder:
    run = from_main(lambda: RunFolder.open(output) if resume else RunFolder.create(output, config))
    seeds = config.train.seeds or ()
    try:
        singles = {seed: _one_seed(run, config, seed, single) for seed in seeds}
    except NewsloraError:
        if not resume and not any(run.seed(seed).exists() for seed in seeds):
            from_main(run.discard_unless_resumable)
        raise
    from_main(lambda: config.save(run.config_file))  # seeds may have been added
    from_main(lambda: write_seeds(run, singles))
    return run


def _one_seed(run: RunFolder, config: RunConfig, seed: int, single: Single) -> RunFolder:
    own, place = change(config, {"train.seed": seed, "train.seeds": None}, where="train.seeds"), run.seed(seed)
    if not from_main(place.exists):
        return single(own, place, False)
    done = RunFolder.open(place)
    if done.config() != own:
        raise NewsloraError(f"{place}: was trained with other settings; choose another --output")
    return done if from_main(lambda: done.is_finished) else single(own, place, True)
