"""The models that are served, by name; adapters come and go while requests are answered."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Final

import numpy as np

from newslora.errors import NewsloraError
from newslora.inference.classifier import NewsClassifier
from newslora.model.about import About, read_about
from newslora.serving.engine import Explain, Served
from newslora.serving.refusal import RefusalError

if TYPE_CHECKING:
    from newslora.serving.adapters import BackboneRunner

NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_RULE: Final = "letters, digits, dots, dashes and underscores, a letter or digit first, 64 at most"


@dataclass
class Scan:
    """What a look through the folder of adapters changed.

    Attributes:
        added: Names that are new or whose files changed.
        removed: Names whose folder is gone.
        failed: Folders that could not be loaded, and why.
    """

    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


class Library:
    """Models by name. Requests keep the model they were given even when it is removed meanwhile.

    Args:
        runs: Run folders or exports; the first is what answers a request that names none.
        folder: Folder of run folders that may be added and removed by name, or None where nothing may change.

    Raises:
        NewsloraError: A model cannot be loaded, two have one name, or a name that no request could use.
    """

    def __init__(self, runs: Sequence[Path], folder: Path | None = None) -> None:
        if folder is not None and not folder.is_dir():
            raise NewsloraError(f"--adapters: {folder} is no folder; give the folder that holds the run folders")
        self.folder = None if folder is None else folder.resolve()
        self._changing = Lock()
        self._runner: BackboneRunner | None = None
        # One model alone runs with its update folded into the weights, which is faster but takes them for itself.
        self._shares = len(runs) > 1 or folder is not None
        self._models: Mapping[str, Served] = {}
        for run in runs:
            self._open(run)
        self.default = next(iter(self._models))
        if self.folder is not None:
            self.rescan()

    def __len__(self) -> int:
        return len(self._models)

    def models(self) -> list[Served]:
        """Return what is served, the default first."""
        return list(self._models.values())

    def get(self, name: str | None) -> Served:
        """Return the model of a name, or the default.

        Raises:
            RefusalError: 404, there is none of that name.
        """
        found = self._models.get(self.default if name is None else name)
        if found is None:
            raise RefusalError(404, "adapter: there is none of that name; GET /v1/models lists them")
        return found

    def add(self, name: str) -> Served:
        """Load, or load anew, an adapter from the folder.

        Raises:
            RefusalError: 403, nothing may be added; 404, the folder has none of that name; 409, the name is that of a
                run given at the start; 422, it cannot be loaded.
        """
        with self._changing:
            path = self._path(name)
            if name in self._models and not self._models[name].removable:
                raise RefusalError(409, "name: it is that of a run given at the start; rename the folder")
            try:
                served = self._load(_adapter_folder(path), name, removable=True)
            except NewsloraError as error:
                raise RefusalError(422, _without(path, str(error))) from error
            self._models = {**self._models, name: served}
            return served

    def remove(self, name: str) -> None:
        """Take an adapter out of service; its folder stays.

        Raises:
            RefusalError: 403, nothing may be removed; 404, there is none of that name; 409, it was given at the start.
        """
        with self._changing:
            self._check_open()
            if not self.get(name).removable:
                raise RefusalError(409, "name: it was given at the start and stays")
            self._models = {key: model for key, model in self._models.items() if key != name}

    def rescan(self) -> Scan:
        """Look through the folder: load what is new or changed, drop what is gone.

        Raises:
            RefusalError: 403, there is no such folder.
        """
        scan, folder = Scan(), self._check_open()
        present = {path.name: path for path in sorted(folder.iterdir()) if _is_adapter(path)}
        for name, path in present.items():
            known = self._models.get(name)
            if known is None or (known.removable and known.stamp != _stamp(_adapter_folder(path))):
                try:
                    self.add(name)
                    scan.added.append(name)
                except RefusalError as error:
                    scan.failed[name] = error.message
        for name in [model.name for model in self.models() if model.removable and model.name not in present]:
            self.remove(name)
            scan.removed.append(name)
        return scan

    def _open(self, run: Path) -> None:
        name = (run.resolve().parent if run.name == "adapter" else run.resolve()).name
        if re.fullmatch(NAME, name) is None:
            raise NewsloraError(f"{run}: {name!r} cannot be an adapter's name; rename the folder: {_RULE}")
        if name in self._models:
            raise NewsloraError(f"{run}: another run is named {name!r} too; rename one of the folders")
        shared = self._shares and _is_adapter(run)
        served = self._load(_adapter_folder(run), name, removable=False) if shared else _alone(run, name)
        self._models = {**self._models, name: served}

    def _load(self, folder: Path, name: str, *, removable: bool) -> Served:
        from newslora.serving.adapters import BackboneRunner  # torch: an export is served without it

        _refuse_sets(folder, read_about(folder))
        if self._runner is None:
            self._runner = BackboneRunner(folder)
        return self._runner.load(folder, name, removable=removable, stamp=_stamp(folder))

    def _check_open(self) -> Path:
        if self.folder is None:
            raise RefusalError(403, "adapters cannot be changed; start newslora serve with --adapters DIR")
        return self.folder

    def _path(self, name: str) -> Path:
        folder = self._check_open()
        if re.fullmatch(NAME, name) is None:
            raise RefusalError(422, f"name: must be {_RULE}")
        path = folder / name
        # A link could lead anywhere.
        if path.is_symlink() or not _is_adapter(path) or _adapter_folder(path).is_symlink():
            raise RefusalError(404, "name: the folder of adapters holds no run folder of that name")
        return path


class _AloneRunner:
    """Runs models that share nothing."""

    def run(self, groups: Sequence[tuple[Served, Sequence[str]]]) -> list[np.ndarray]:
        return [served.part.predict_repaired(texts) for served, texts in groups]


def _alone(run: Path, name: str) -> Served:
    classifier = NewsClassifier.load(run)
    _refuse_sets(run, read_about(classifier.adapter))
    classifier.predict_repaired(["read the weights now, not at the first request"])
    return Served(
        name=name,
        labels=classifier.names,
        max_length=read_about(classifier.adapter).max_length,
        removable=False,
        stamp=0,
        repair=classifier.repair,
        runner=_AloneRunner(),
        part=classifier,
        explain=None if classifier.form == "onnx" else _explainer(classifier),
    )


def _refuse_sets(path: Path, about: About) -> None:
    # Answers, page and explanations are made for one label; a list of several would be told wrongly.
    if about.multi_label:
        raise NewsloraError(f"{path}: carries several labels an article and is not served; use newslora predict")


def _explainer(classifier: NewsClassifier) -> Explain | None:
    from newslora.serving.explain import explain  # torch: a graph is served without it

    model = classifier.model
    encoder = model.encoder
    if encoder is None:
        return None
    return partial(explain, model, lambda x, batch: model.head(encoder.layers_from(x, batch)), classifier.temperature)


def _is_adapter(path: Path) -> bool:
    return any((folder / "adapter_config.json").is_file() for folder in (path, path / "adapter"))


def _adapter_folder(path: Path) -> Path:
    return path if (path / "adapter_config.json").is_file() else path / "adapter"


def _stamp(folder: Path) -> int:
    return max((file.stat().st_mtime_ns for file in folder.iterdir() if file.is_file()), default=0)


def _without(path: Path, message: str) -> str:
    # Where the folders stand is no business of who calls.
    return message.replace(f"{path}/", "").replace(str(path), path.name)
