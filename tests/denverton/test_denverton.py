"""Every part that runs on the box runs on an Atom without AVX, as far as an emulator of its instructions can tell."""

from __future__ import annotations

import configparser
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / ".ci" / "denverton"

# Where a distribution's module is not its name with "_" for "-".
MODULES = {"opencv-python-headless": "cv2", "paho-mqtt": "paho"}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(
    shutil.which("qemu-x86_64") is None and os.environ.get("CI") != "true", reason="qemu-user is not installed"
)
def test_nothing_that_runs_on_the_box_needs_avx() -> None:
    done = subprocess.run([str(SCRIPT), sys.executable], capture_output=True, text=True, timeout=1780, check=False)
    print(done.stdout, done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr


# Of onnxruntime, which has no such switch, only the emulator can tell.
CAPS = {
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OPENBLAS_CORETYPE": "Nehalem",
    "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR",
    "OPENCV_CPU_DISABLE": "AVX512-SKX,AVX2,FP16,AVX",
}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="these are x86's instructions")
def test_held_to_sse_the_scrubber_covers_the_same_blocks(tmp_path) -> None:
    probe = [sys.executable, str(ROOT / "tests" / "denverton" / "probe_scrub.py")]
    for what, caps in (("--save", {}), ("--compare", CAPS)):
        done = subprocess.run(
            [*probe, what, str(tmp_path / "native.json")], capture_output=True, text=True, timeout=110, check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **caps},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


def test_no_runtime_dependency_is_left_out_of_the_emulation() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = config["options"]["install_requires"]
    listed += "".join(config["options.extras_require"][extra] for extra in ("server", "camera"))
    names = {re.split(r"[\s<>=\[;]", line.strip())[0] for line in listed.splitlines() if line.strip()}
    modules = {MODULES.get(name, name.replace("-", "_")) for name in names if not name.startswith("#")}
    lists = re.findall(r'^(?:light|heavy)="([^"]*)"', SCRIPT.read_text(), re.MULTILINE)
    tried = {word.split(".")[0] for words in lists for word in words.split()}
    assert modules <= tried, f"add to .ci/denverton: {sorted(modules - tried)}"
