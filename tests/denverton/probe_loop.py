"""The stages of the loop on drawn shapes, each in a child of its own: survey, train, every rung of learn, reuse, int8, trial.

    probe_loop.py PYTHON COUNT    the children are started as PYTHON, which adds its arguments to the file COUNT

Run under an emulated Atom with a PYTHON that emulates one too (`short_stage.py` in it), no process of the loop has another
processor. The counts show that no child was started in another way.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from bench.learning.score import Eye
from bench.learning.site import Site
from bench.learning.worlds import shapes
from edged.clock import stopwatch
from edged.retrain import jobs

PX, NET = 32, "mobilenet-0.125"  # emulation makes the networks some hundred times slower
SHORT = {"epoch_least": 64, "epoch_most": 64, "batch": 16, "min_samples": 16}


def main(python: str, count: str) -> None:
    sys.executable = python
    begin = stopwatch()

    def say(text: str) -> None:
        print(f"  {stopwatch() - begin:5.0f} s  {text}", flush=True)

    old, new = shapes("light", 48, seed=1), shapes("dark", 48, seed=2, light=False)
    with tempfile.TemporaryDirectory() as folder, Site(
        Path(folder) / "site", sorted(old.classes), ("light", "dark"), px=PX, architecture=NET, epochs=1,
        block_s=300,
    ) as site:  # fmt: skip
        say("a site was made")
        site.arrive(old)
        site.answer(list(site.truth))
        first = site.begin(**SHORT)
        say(f"train: {first.result['epochs']} epoch, {first.tune:.0%} on the tuning part")
        answers = Eye(site.rules.classes, PX).answers(site.model(first.sha256), new)
        site.arrive(new, answers, first.sha256)
        say(f"survey: {site.survey(first.sha256)} crops")
        site.answer(site.sample[new.name, i.name] for i in new.items)
        taught = site.teach(first, rungs=jobs.RUNGS)
        say(f"learn and int8: {', '.join(t['told'] for t in taught.result['rungs_tried'])}")
        scores = site.stage("reuse", models=[first.sha256], snapshot=taught.snapshot, before=first.snapshot)["scores"]
        say(f"reuse: {scores[0]['right']} of {scores[0]['n']} right")
        report = site.stage("trial", sha256=taught.sha256, baseline=first.sha256, snapshot=taught.snapshot, seconds=0.1)
        say(f"trial: {report['accuracy']['accuracy']:.0%} of {report['n']}")
    started = Path(count).read_text().splitlines()
    stages = [line.split("edged.retrain ")[1].split()[0] for line in started if "edged.retrain " in line]
    assert stages == ["train", "survey", "learn", "compress", "reuse", "trial"], stages
    tried = {str(t["name"]).split("-")[0] for t in taught.result["rungs_tried"]}
    assert tried == {*jobs.RUNGS, "full"}, f"not every rung was climbed: {tried}"


if __name__ == "__main__":
    main(*sys.argv[1:])
