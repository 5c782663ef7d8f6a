"""Ray as newslora starts it on this machine."""

import os
import subprocess
import sys

import ray

from newslora.scale.cluster import gpu_share

ASK = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1]).internal_kv_keys(b'', b'', 9)"


def test_who_does_not_know_the_token_is_turned_away(ray_here: None) -> None:
    address = ray.get_runtime_context().gcs_address
    unknown = ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64})
    for own, status in (({}, 0), (unknown[0], 1), (unknown[1], 1)):
        asked = subprocess.run(
            [sys.executable, "-c", ASK, address], env=os.environ | own, check=False, capture_output=True
        )
        assert (asked.returncode, b"uthenticat" in asked.stderr) == (status, bool(status)), asked.stderr


def test_shares_of_gpus(ray_here: None) -> None:
    assert gpu_share(2) == min(1.0, ray.cluster_resources().get("GPU", 0.0) / 2)
