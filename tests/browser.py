"""The browser that the tests of the pages drive."""

import os
import shutil

import pytest


def chromium() -> str:
    """Return the path of a Chromium; without one the test is skipped, or fails in CI, which has one."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None and os.environ.get("CI"):
        pytest.fail("no Chromium on the path; Debian has it as the package chromium")
    return found or pytest.skip("no Chromium on the path; Debian has it as the package chromium")
