import getpass
import json
import platform
import shutil
import socket
from pathlib import Path

import peft
import torch

from newslora import __version__
from newslora.evaluation.environment import FILE_NAME, describe_environment, save_environment
from newslora.training.run_folder import RunFolder


def test_it_names_the_versions_that_compute() -> None:
    about = describe_environment()
    assert (about["newslora"], about["torch"], about["peft"]) == (__version__, torch.__version__, peft.__version__)
    assert about["Python"] == platform.python_version()
    assert about["system"] == f"{platform.system()} {platform.machine()}"
    assert all(about.values())


def test_neither_machine_nor_user_is_named(small_run: RunFolder, tmp_path: Path) -> None:
    run = RunFolder(Path(shutil.copytree(small_run.path, tmp_path / "run")))
    save_environment(run)
    values = json.loads((run.path / FILE_NAME).read_text()).values()
    assert not {socket.gethostname(), platform.node(), getpass.getuser(), str(Path.home())} & set(values)
    assert not any(socket.gethostname() in value for value in values)
