"""A disk that is full at a random point of a run: a clear error, the checkpoint before still loads, and ``--resume`` ends alike."""

import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.soak.ledger import open_ledger
from tests.soak.training import outcome, settings, start, wait

from newslora.errors import NewsloraError
from newslora.training.checkpoints import find_checkpoint


class FullDisk:
    """A tmpfs that holds the runs, and an uninterrupted run elsewhere."""

    def __init__(self, place: Path) -> None:
        self.place, self.disk = place, place / "disk"
        os.environ["NEWSLORA_CACHE"] = str(place / "cache")
        self.config = settings(place, "plain")
        self.disk.mkdir()
        self._resize(1 << 20)
        assert wait([start(self.config, self.disk / "run", resume=False)]) == [0]
        self.whole = outcome(self.disk / "run")
        self.most = sum(file.stat().st_blocks // 2 + 1 for file in self.disk.rglob("*"))
        shutil.rmtree(self.disk / "run")

    def trial(self, number: int, draw: random.Random) -> dict[str, Any]:
        size = draw.randrange(8, self.most)
        self._resize(size)
        run = self.disk / "run"
        [status] = wait([start(self.config, run, resume=False)])
        step, loads = self._checkpoint(run)
        self._resize(1 << 20)
        again = wait([start(self.config, run, resume=True)]) if status else [0]
        ok = status in (0, 2) and loads and again == [0] and outcome(run) == self.whole
        shutil.rmtree(run, ignore_errors=True)
        what = f"{size} of {self.most} KiB: left with {status}, then {again} from step {step}"
        return {"ok": ok, "kind": "full" if status else "sufficed", "what": what, "step": step}

    def _checkpoint(self, run: Path) -> tuple[int, bool]:
        try:
            found = find_checkpoint(run / "checkpoints")
        except NewsloraError as error:
            print(error, file=sys.stderr)
            return 0, False
        return 0 if found is None else int(found.files["state.json"].split(b'"step":')[1].split(b",")[0]), True

    def _resize(self, kib: int) -> None:
        again = ["-o", "remount"] if self.disk.is_mount() else []
        subprocess.run(
            ["mount", "-t", "tmpfs", *again, "-o", f"size={kib}k", "tmpfs", str(self.disk)],
            check=True,
        )


def main() -> int:
    ledger, _ = open_ledger("disk", 20)
    with tempfile.TemporaryDirectory() as place:
        try:
            return ledger.run(FullDisk(Path(place)).trial)
        finally:
            subprocess.run(["umount", str(Path(place) / "disk")], check=False)


if __name__ == "__main__":
    sys.exit(main())
