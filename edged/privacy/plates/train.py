"""The recipe of plates.onnx: `python -m edged.privacy.plates.train --minutes 45 --seed 1 --out DIR [--backgrounds ...]`.

That of text.onnx is the same with another drawing (text/train.py).

A process beside the training draws scenes chunk by chunk (chunk i of seed s is always the same, see scenes.py); each is
cut, scaled, mirrored, relit, degraded anew whenever it is used. Without any photograph everything is drawn. How many
chunks are ready at which step depends on the machine, so two runs agree in kind, not in bits.

Writes the ONNX file and its card: SHA-256, thresholds, seed, digests of what was read, and the run's own figures.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from edged.clock import SystemClock
from edged.privacy.plates import net, photographs, scenes
from edged.privacy.plates.scenes import Float, Grey, Rng, Scene

INPUT = 192  # pixels of a training cut
BATCH = 32
AHEAD = 1  # chunks drawn and not yet taken in
RATE = 2.5e-3
PLACE = 1.5  # weight of the boxes' error against the heat's
AVERAGE = 0.998  # share of the old weights in the running mean that is exported
START, KEEP = 0.5, 0.25  # scores; see README.md for how they were chosen


Draw = Callable[[Rng, Sequence[Grey]], Scene]


def main(name: str = "plates", draw: Draw = scenes.drawn, narrowest: float = scenes.NARROWEST) -> None:
    """Trains what `draw` draws, boxes of less than `narrowest` pixels aside; writes NAME.onnx and NAME.json."""
    options = _options()
    cv2.setNumThreads(1)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(dir=options.cache) as folder:
        drawing = multiprocessing.get_context("spawn").Process(
            target=_draw, args=(options, draw, Path(folder)), daemon=True
        )
        drawing.start()
        try:
            trained, facts = _train(options, narrowest, Path(folder), drawing)
        finally:
            drawing.terminate()
    _write(options, name, trained, facts)


def _options() -> argparse.Namespace:
    p = argparse.ArgumentParser(prog="python -m edged.privacy.plates.train", description=__doc__)
    p.add_argument("--out", type=Path, required=True, help="folder for plates.onnx and plates.json")
    p.add_argument("--minutes", type=float, default=45, help="of training; drawing goes on beside it")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--width", type=int, default=48, help="channels at stride 8")
    p.add_argument("--backgrounds", type=Path, nargs="*", default=[], help="folders of pictures and films to draw on")
    p.add_argument("--frames", type=Path, help="folder of frames whose plates are boxed")
    p.add_argument("--boxes", type=Path, help="their table: image, film, xmin, ymin, xmax, ymax")
    p.add_argument("--films", nargs="*", default=None, help="only these films of the table")
    p.add_argument("--before", default="~", help="only frames whose name sorts before this one")
    p.add_argument("--chunk", type=int, default=500, help="scenes drawn together")
    p.add_argument("--first", type=int, default=6, help="chunks to wait for before training starts")
    p.add_argument("--resume", type=Path, help="go on from this NAME.safetensors of an earlier run")
    p.add_argument("--most", type=int, default=120, help="chunks kept at a time (33 MB each); the oldest go first")
    p.add_argument("--cache", type=Path, default=None, help="folder for the drawn scenes while it runs")
    return p.parse_args()


def _frames(options: argparse.Namespace) -> list[photographs.Frame]:
    if options.frames is None:
        return []

    def wanted(name: str, film: str) -> bool:
        return name < options.before and (options.films is None or film in options.films)

    return photographs.frames(options.frames, options.boxes, wanted)


def _draw(options: argparse.Namespace, draw: Draw, folder: Path) -> None:
    """Draws chunks for ever; each appears in the folder under its final name when it is whole."""
    cv2.setNumThreads(1)
    os.nice(10)  # drawing is faster than learning
    photos, real = photographs.backgrounds(options.backgrounds), _frames(options)
    photos += photographs.skies(real)
    number = 0
    while True:
        rng = np.random.default_rng((options.seed, number))
        made = [
            photographs.scene(rng, real) if real and rng.random() < 0.25 else draw(rng, photos)
            for _ in range(options.chunk)
        ]
        part = folder / "part"
        with part.open("wb") as f:
            np.savez(
                f,
                luma=np.stack([s.luma for s in made]),
                boxes=np.stack([s.boxes for s in made]),
                trust=np.asarray([s.trust for s in made], np.float32),
            )
        part.rename(folder / f"{number:06}.npz")
        number += 1
        while number > options.first and len(list(folder.glob("*.npz"))) >= AHEAD:
            SystemClock().sleep(0.5)


class _Pool:
    """The chunks that are ready, newest last. The first one is kept apart for validation."""

    def __init__(self, folder: Path, most: int, narrowest: float) -> None:
        self._folder, self._most, self._narrowest, self._next = folder, most, narrowest, 0
        self.chunks: list[tuple[Grey, Float, Float]] = []

    def gather(self) -> int:
        """Takes in what has been drawn since; the number of chunks so far."""
        while (path := self._folder / f"{self._next:06}.npz").exists():
            with np.load(path) as held:
                self.chunks.append((held["luma"], held["boxes"], held["trust"]))
            path.unlink()
            self._next += 1
            if len(self.chunks) > self._most:
                del self.chunks[1]
        return self._next

    def batch(self, rng: Rng) -> tuple[Float, Float, Float]:
        """BATCH cuts [n,1,INPUT,INPUT], boxes and trust, out of all chunks but the first."""
        cuts, boxes, trust = [], [], []
        for _ in range(BATCH):
            luma, of, trusts = self.chunks[int(rng.integers(1, len(self.chunks)))]
            i = int(rng.integers(len(luma)))
            cut, its = vary(rng, luma[i], of[i], self._narrowest)
            cuts.append(cut)
            boxes.append(its)
            trust.append(float(trusts[i]))
        return np.stack(cuts)[:, None].astype(np.float32), np.stack(boxes), np.asarray(trust, np.float32)


def vary(rng: Rng, luma: Grey, boxes: Float, narrowest: float = scenes.NARROWEST) -> tuple[Grey, Float]:
    """A cut [INPUT,INPUT] of a scene at another size, mirrored, relit and degraded, with its boxes."""
    scale = float(np.exp(rng.uniform(np.log(0.8), np.log(1.25))))
    room = luma.shape[0] * scale - INPUT
    left, top = (float(rng.uniform(min(0.0, room), max(0.0, room))) for _ in range(2))
    mirror = rng.random() < 0.3
    matrix = np.asarray([[scale, 0, -left], [0, scale, -top]], np.float64)
    if mirror:
        matrix = np.asarray([[-scale, 0, INPUT - 1 + left], [0, scale, -top]], np.float64)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    cut = np.asarray(cv2.warpAffine(luma, matrix, (INPUT, INPUT), flags=how, borderMode=cv2.BORDER_REFLECT), np.uint8)
    placed = boxes.copy()
    shown = boxes[:, 4] != 0
    x = boxes[:, 0] * scale - left
    w, h, y = boxes[:, 2] * scale, boxes[:, 3] * scale, boxes[:, 1] * scale - top
    if mirror:
        x = INPUT - x - w
    x0, y0, x1, y1 = np.maximum(x, 0), np.maximum(y, 0), np.minimum(x + w, INPUT), np.minimum(y + h, INPUT)
    seen = np.maximum(x1 - x0, 0) * np.maximum(y1 - y0, 0) / np.maximum(w * h, 1e-3)
    placed[:, :4] = np.stack([x0, y0, x1 - x0, y1 - y0], 1)
    small = (w < narrowest) | (seen < 0.6) | (h < 4)
    placed[:, 4] = np.where(shown & (seen > 0), np.where(small, scenes.IGNORED, boxes[:, 4]), 0)
    placed[placed[:, 4] == 0] = 0
    return _degraded(rng, cut), placed


def _degraded(rng: Rng, cut: Grey) -> Grey:
    """Coarser, darker or lighter, noisy, compressed."""
    if rng.random() < 0.2:
        small = int(INPUT / rng.uniform(1.15, 2.2))
        cut = np.asarray(cv2.resize(cut, (small, small), interpolation=cv2.INTER_AREA), np.uint8)
        cut = np.asarray(cv2.resize(cut, (INPUT, INPUT), interpolation=cv2.INTER_LINEAR), np.uint8)
    if rng.random() < 0.75:
        level = np.arange(256, dtype=np.float32) / 255
        most = 235 / max(1.0, float(cut.mean()))  # more light than this leaves nothing to see
        gain = min(float(np.exp(rng.normal(0, 0.3))), most)
        curve = level ** float(np.exp(rng.normal(0, 0.3))) * gain + float(rng.normal(0, 0.04))
        cut = np.asarray(cv2.LUT(cut, np.clip(curve * 255, 0, 255).astype(np.uint8)), np.uint8)
    if rng.random() < 0.5:
        grain = rng.integers(-127, 128, cut.shape, dtype=np.int8).astype(np.float32)
        cut = np.clip(cut + grain * float(rng.uniform(0.01, 0.16)), 0, 255).astype(np.uint8)
        if rng.random() < 0.4:  # the softness that cameras make of noise
            cut = np.asarray(cv2.blur(cut, (2, 2)), np.uint8)
    if rng.random() < 0.35:
        ok, packed = cv2.imencode(".jpg", cut, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(15, 90))])
        if ok:
            cut = np.asarray(cv2.imdecode(packed, cv2.IMREAD_GRAYSCALE), np.uint8)
    return cut


def _train(
    options: argparse.Namespace, narrowest: float, folder: Path, drawing: multiprocessing.process.BaseProcess
) -> tuple[net.PlateNet, dict[str, float]]:
    clock = SystemClock()
    pool = _Pool(folder, options.most, narrowest)
    while pool.gather() < max(2, options.first):
        if not drawing.is_alive():
            raise SystemExit("the drawing process ended; its message is above")
        clock.sleep(0.5)
    torch.manual_seed(options.seed)
    rng = np.random.default_rng((options.seed, 1 << 20))
    trained = net.PlateNet(options.width).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if options.resume is not None:
        trained.load_state_dict(load_file(options.resume))
    mean = copy.deepcopy(trained)
    steps = torch.optim.AdamW(trained.parameters(), lr=RATE, weight_decay=1e-2)
    began, step, told, last, sums = clock.monotonic(), 0, 0.0, 0, np.zeros(2)
    while (done := (clock.monotonic() - began) / 60 / options.minutes) < 1:
        rate = RATE * min(1.0, (step + 1) / 200) * (0.5 + 0.5 * float(np.cos(np.pi * done)))
        for group in steps.param_groups:
            group["lr"] = max(rate, RATE * 0.003)
        cuts, boxes, trust = pool.batch(rng)
        out = trained(torch.from_numpy(cuts).to(memory_format=torch.channels_last))
        of_heat, of_place = net.loss(out, torch.from_numpy(boxes), torch.from_numpy(trust))
        steps.zero_grad()
        (of_heat + of_place * PLACE).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 10.0)
        steps.step()
        step += 1
        _follow(mean, trained, min(AVERAGE, step / (step + 20)))
        sums += (float(of_heat.detach()), float(of_place.detach()))
        if (now := clock.monotonic()) - told > 20:
            left = options.minutes - (now - began) / 60
            sums /= max(1, step - last)
            print(
                f"step {step} heat {sums[0]:.3f} place {sums[1]:.3f} chunks {pool.gather()} {left:.1f} min left",
                flush=True,
            )
            told, last, sums = now, step, np.zeros(2)
    mean.eval()
    heat, place = _validate(mean, pool.chunks[0], narrowest)
    print(f"validation: heat {heat:.3f} place {place:.3f}")
    return mean, {"steps": step, "chunks": pool.gather(), "validation_heat": heat, "validation_place": place}


def _follow(mean: net.PlateNet, trained: net.PlateNet, share: float) -> None:
    with torch.no_grad():
        for kept, new in zip(mean.state_dict().values(), trained.state_dict().values(), strict=True):
            if kept.dtype.is_floating_point:
                kept.mul_(share).add_(new, alpha=1 - share)
            else:
                kept.copy_(new)


def _validate(trained: net.PlateNet, chunk: tuple[Grey, Float, Float], narrowest: float) -> tuple[float, float]:
    rng, sums, count = np.random.default_rng(0), np.zeros(2), 0
    luma, boxes, trust = chunk
    for at in range(0, len(luma) - BATCH, BATCH):
        varied = [vary(rng, luma[i], boxes[i], narrowest) for i in range(at, at + BATCH)]
        cuts: NDArray[np.float32] = np.stack([cut for cut, _ in varied])[:, None].astype(np.float32)
        with torch.no_grad():
            out = trained(torch.from_numpy(cuts).to(memory_format=torch.channels_last))
            losses = net.loss(
                out, torch.from_numpy(np.stack([b for _, b in varied])), torch.from_numpy(trust[at : at + BATCH])
            )
        sums += [float(one) for one in losses]
        count += 1
    return float(sums[0] / count), float(sums[1] / count)


def _write(options: argparse.Namespace, name: str, trained: net.PlateNet, facts: dict[str, float]) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in trained.state_dict().items()}, options.out / f"{name}.safetensors")
    path = options.out / f"{name}.onnx"
    model = net.Exported(trained.to(memory_format=torch.contiguous_format)).eval()  # type: ignore[call-overload]
    torch.onnx.export(
        model, (torch.zeros(1, 1, 544, 960),), str(path), dynamo=False, opset_version=17,
        input_names=["luma"], output_names=["heat", "box"],
    )  # fmt: skip
    card = {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "start": START,
        "keep": KEEP,
        "seed": options.seed,
        "minutes": options.minutes,
        "resumed": None if options.resume is None else hashlib.sha256(options.resume.read_bytes()).hexdigest(),
        "parameters": sum(p.numel() for p in trained.parameters()),
        "backgrounds": {p.name: photographs.digest([p]) for p in options.backgrounds},
        "frames": None if options.frames is None else {
            "digest": photographs.digest([options.frames]), "films": options.films, "before": options.before,
        },
        "run": facts,
    }  # fmt: skip
    (options.out / f"{name}.json").write_text(json.dumps(card, indent=2) + "\n")


if __name__ == "__main__":
    main()
