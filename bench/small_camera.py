"""What the agent takes of a small camera: seconds from the start of its process to its first looked-at picture, and memory.

    python -m bench.small_camera [rounds]

The agent is the real process over mutual TLS to the embedded broker, with a model in its slot (mobilenet-0.25 at 64 px, float,
the picture prepared inside), once for each runtime, in turns. `start_s` and `rss_bytes` are what the agent says of itself; CPU
seconds and the peak are the kernel's, after twenty pictures. `none`: without a model, so no runtime is loaded. A module that only
tests install and that python-tuf's signer would load (boto3) is hidden from it, as on a camera.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import msgspec

from agent import cli
from agent.about import FILE, Started
from agent.pipeline import encode
from agent.selftest import KnownAnswer
from agent.slots import Slot, Slots
from bench import machine
from edged.broker import identity
from edged.broker.acl import Acl
from edged.broker.server import BrokerThread
from edged.clock import SystemClock
from edged.engine import load, patterns, preprocess
from edged.publish import trust
from edged.retrain import export, intake, zoo

RUNTIMES = ("none", "onnxruntime", "opencv", "openvino")
ROUNDS = 5
PICTURES = 20
PX, CLASSES = 64, ("free", "busy")
SITE, CAMERA = "site", "gate"
RESULTS = Path(__file__).parent / "results"


def run(rounds: int = ROUNDS) -> dict[str, Any]:
    """Medians by runtime, with every figure."""
    clock = SystemClock()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        keys = folder / "keys"
        identity.make_ca(keys, SITE, clock.now())
        identity.issue(keys, "server", server=True, hosts=["127.0.0.1"], now=clock.now())
        identity.issue(keys, CAMERA, server=False, now=clock.now())
        trust.make_keys(folder / "tuf-keys")
        trust.Repository(folder / "tuf", folder / "tuf-keys", clock).init()
        (folder / "hidden").mkdir()
        (folder / "hidden" / "boto3.py").write_text('raise ImportError("not on a camera")\n')
        (folder / "pictures").mkdir()
        for i in range(4):
            (folder / "pictures" / f"{i}.jpg").write_bytes(encode(patterns.picture(i, 224)))
        model = intake.inside(export.to_onnx(zoo.build("mobilenet-0.25", len(CLASSES), PX).eval(), PX))
        found: dict[str, list[dict[str, float]]] = {runtime: [] for runtime in RUNTIMES}
        with BrokerThread(Acl(SITE), tls=identity.paths(keys, "server")) as broker:
            for round_ in range(rounds + 1):  # the first fills the page cache
                for runtime in RUNTIMES:
                    seen = _once(folder, broker.port, runtime, model, folder / f"state-{runtime}-{round_}")
                    if round_:
                        found[runtime].append(seen)
    return {
        "model_bytes": len(model), "rounds": rounds, "pictures": PICTURES,
        "median": {r: {k: round(median(s[k] for s in seen), 3) for k in seen[0]} for r, seen in found.items()},
        "all": found,
    }  # fmt: skip


def _once(folder: Path, port: int, runtime: str, model: bytes, state: Path) -> dict[str, float]:
    root = folder / "tuf" / "1.root.json"
    state.mkdir()
    cli._root(SimpleNamespace(root=str(root), state=str(state)))  # not its first start: the root was looked at
    if runtime != "none":
        slots = Slots(state / "slots")
        slots.stage(_slot(model), model)
        slots.switch()
        slots.commit()
    tls = identity.paths(folder / "keys", CAMERA)
    command = [
        sys.executable, "-P", "-m", "agent", "run", "--site", SITE, "--camera", CAMERA, "--broker", f"127.0.0.1:{port}",
        "--ca", tls.ca, "--cert", tls.cert, "--key", tls.key, "--root", str(root),
        "--state", str(state), "--source", f"folder:{folder / 'pictures'}?kind=roi&loop=1", "--fps", "10",
        "--runtime", "auto" if runtime == "none" else runtime,
    ]  # fmt: skip
    path = os.pathsep.join([str(folder / "hidden"), str(Path(__file__).parents[1])])
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    child = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL)
    try:
        said = _until(child, state)
        cpu = _cpu_s(child.pid)
        SystemClock().sleep(PICTURES / 10)
        status = dict(line.split(":", 1) for line in Path(f"/proc/{child.pid}/status").read_text().splitlines())
        return {
            "start_s": said.start_s, "cpu_s": cpu, "rss_mib": said.rss_bytes / 2**20,
            "rss_later_mib": int(status["VmRSS"].split()[0]) / 1024, "peak_mib": int(status["VmHWM"].split()[0]) / 1024,
        }  # fmt: skip
    finally:
        child.terminate()
        child.wait()


def _slot(model: bytes) -> Slot:
    seeds = (1, 2)
    batch = preprocess.marshal(preprocess.to_float([patterns.picture(s, PX) for s in seeds], PX))
    logits = tuple(tuple(float(v) for v in row) for row in load(model, runtime="onnxruntime").run(batch)[0])
    return Slot("m", 1, hashlib.sha256(model).hexdigest(), CLASSES, PX, KnownAnswer(seeds, PX, logits, 0.01))


def _until(child: subprocess.Popen[bytes], state: Path) -> Started:
    for _ in range(6000):
        try:
            return msgspec.json.decode((state / FILE).read_bytes(), type=Started)
        except (OSError, msgspec.MsgspecError):
            if child.poll() is not None:
                raise SystemExit(f"the agent ended with {child.returncode}") from None
            SystemClock().sleep(0.01)
    raise SystemExit("the agent looked at no picture within a minute")


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    measured = run(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
    facts = machine.describe()
    document = {"bench": "small_camera", "machine": facts, "load": round(os.getloadavg()[0], 2), "measured": measured}
    for runtime, m in measured["median"].items():
        print(
            f"{runtime:12} {m['start_s']:6.2f} s  {m['cpu_s']:6.2f} s CPU  {m['rss_mib']:6.1f} MiB, {m['peak_mib']:6.1f} MiB peak"
        )
    path = RESULTS / f"{facts['date']}-small-camera.json"
    path.write_text(json.dumps(document, indent=1) + "\n")
    print(f"written: bench/results/{path.name}")


if __name__ == "__main__":
    main()
