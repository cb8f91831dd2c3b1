"""One run over two processes: the same weights on both, the accuracy of one, and an end in words when one is killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import torch

from edged.errors import Misconfigured
from edged.retrain import fit, spread

ONE = """
import sys, msgspec, torch, numpy as np
from pathlib import Path
from safetensors.torch import save_file
from edged.clock import SystemClock
from edged.retrain import fit, jobs, spread, zoo
from edged.retrain.pictures import Pictures

torch.set_num_threads(1)
def pics(n, seed):
    dice = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    pixels = dice.integers(0, 200, (n, 32, 32, 3), np.uint8)
    pixels[labels == 1, 8:24, 8:24] //= 4
    return Pictures(pixels, labels, ("c",) * n)

name, out = sys.argv[1], Path(sys.argv[2])
epochs = 3 if name.startswith("lenet") else 12  # batch norm's running averages lag behind
job = msgspec.convert({"data_dir": "", "classes": ["a", "b"], "epochs": epochs, "epoch_least": 1, "draw": "turns", "batch": 30,
                       "lr": 0.003, "fill": 0.0, "light": 0.0, "shift": 0.0,
                       "arch": {"name": name, "input_px": 32}}, jobs.TrainJob)
torch.manual_seed(1)
net = zoo.build(name, 2, 32)
with spread.joined() as group:
    state = fit.fit(net, pics(301, 1), pics(101, 2), job, out / "c", clock=SystemClock(), progress=lambda *_: None, group=group)
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, out / f"{group.size}-{group.rank}")
    print(msgspec.json.encode(state.curve).decode())
"""


def port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def processes(count, *args):
    env = os.environ | {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port()), "WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    return [
        subprocess.Popen(
            [sys.executable, *map(str, args)], env=env | {"RANK": str(r), "LOCAL_RANK": str(r)}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for r in range(count)
    ]  # fmt: skip


def fill(where, n=40):
    rng = np.random.default_rng(1)
    for k, name in enumerate(("dark", "light")):
        (where / name).mkdir(parents=True)
        for i in range(n):
            cv2.imwrite(
                str(where / name / f"{i:03}.png"), rng.integers(0, 90, (40, 40, 3), np.uint8) + np.uint8(150 * k)
            )
    return where


def edged(data, out, *more):
    return ["-m", "edged", "--json", "train", "--data", data, "--model", "lenet-5", "-o", out, "--threads", "1", *more]


def test_without_torchrun_there_is_one_process_and_it_agrees_with_itself():
    assert not spread.called({})
    assert spread.called({"RANK": "1", "WORLD_SIZE": "2"})
    alone = spread.ALONE
    assert alone.sums(1.0, 2.0) == (1.0, 2.0)
    assert alone.told("x") == "x"
    assert alone.in_turn(lambda: 7) == 7
    assert torch.equal(alone.share(torch.arange(5)), torch.arange(5))


def test_shares_are_disjoint_and_leave_nothing_out(pics):
    groups = [spread.Group(rank, 3) for rank in range(3)]
    batch = torch.arange(32)
    assert sorted(torch.cat([g.share(batch) for g in groups]).tolist()) == batch.tolist()
    some = pics(31)
    assert sum(len(some.share(g.rank, g.size)) for g in groups) == 31


def test_an_environment_that_names_no_group_is_misconfigured():
    with pytest.raises(Misconfigured, match="as torchrun sets them"), spread.joined({"RANK": "one", "WORLD_SIZE": "2"}):
        pass


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["lenet-5", "mobilenet-0.125"])
def test_two_processes_hold_the_same_weights_and_reach_what_one_reaches(tmp_path, name):
    curves = {}
    for count in (1, 2):
        where = tmp_path / str(count)
        where.mkdir()
        ran = [(p, *p.communicate(timeout=300)) for p in processes(count, "-c", ONE, name, where)]
        assert [p.returncode for p, _, _ in ran] == [0] * count, ran[0][2][-2000:]
        curves[count] = json.loads(ran[0][1])
        assert all(json.loads(out) == curves[count] for _, out, _ in ran)
    ours, theirs = ((tmp_path / "2" / f"2-{r}").read_bytes() for r in (0, 1))
    assert ours == theirs
    assert ours != (tmp_path / "1" / "1-0").read_bytes()
    assert curves[2][-1][3] == pytest.approx(curves[1][-1][3], abs=0.1)
    assert curves[2][-1][3] > 0.85


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_same_command_runs_under_torchrun_and_one_process_goes_on_with_it(tmp_path):
    data, out = fill(tmp_path / "data"), tmp_path / "out"
    running = processes(2, *edged(data, out, "--epochs", "60"))
    checkpoint = out / "job" / "checkpoint.safetensors"
    until = time.monotonic() + 90
    while not checkpoint.exists():
        assert all(p.poll() is None for p in running), [p.communicate() for p in running]
        assert time.monotonic() < until
        time.sleep(0.05)
    running[1].send_signal(signal.SIGKILL)  # torchrun is not there to end the first one: it must notice by itself
    _, said = running[0].communicate(timeout=60)
    running[1].communicate()
    assert running[0].returncode == 75, said
    error = json.loads(said.splitlines()[-1])["error"]
    assert error["code"] == "peer_gone"
    assert "another process of this run is gone" in error["message"]
    assert not (out / "model.onnx").exists()
    again = subprocess.run(
        [sys.executable, *map(str, edged(data, out, "--epochs", "60"))], capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    assert "goes on after its last finished epoch" in again.stderr
    facts = json.loads(again.stdout)
    assert facts["tune_accuracy"] > 0.9
    assert (facts["processes"], facts["epochs"]) == (1, len(facts["curve"]))
    assert list((out / "job").glob("pixels-*")) == []
    two = processes(2, *edged(data, tmp_path / "two", "--epochs", "2"))
    (first, _), (second, _) = (p.communicate(timeout=300) for p in two)
    assert (second, [p.returncode for p in two]) == ("", [0, 0])
    assert json.loads(first).keys() == facts.keys()
    assert json.loads(first)["processes"] == 2


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_the_first_process_refuses_ends_both_and_is_said_once(tmp_path):
    one_class = tmp_path / "data"
    fill(tmp_path / "all")
    one_class.mkdir()
    (tmp_path / "all" / "dark").rename(one_class / "dark")
    both = processes(2, *edged(one_class, tmp_path / "out"))
    said = [p.communicate(timeout=60) for p in both]
    assert [p.returncode for p in both] == [1, 1]
    assert json.loads(said[0][1].splitlines()[-1])["error"]["code"] == "one_class"
    assert "one_class" not in said[1][1]


def test_turns_draw_each_picture_once_and_rare_ones_more_often():
    dice = torch.Generator().manual_seed(1)
    even = fit.drawn(torch.ones(50, dtype=torch.float64), 50, dice, "turns")
    assert sorted(even.tolist()) == list(range(50))
    assert even.tolist() != list(range(50))
    assert len(set(fit.drawn(torch.ones(50, dtype=torch.float64), 20, dice, "turns").tolist())) == 20
    uneven = fit.drawn(torch.tensor([1.0, 1, 1, 3], dtype=torch.float64), 60, dice, "turns")
    assert torch.bincount(uneven).tolist() == [10, 10, 10, 30]
    by_chance = fit.drawn(torch.ones(50, dtype=torch.float64), 50, dice, "chance")
    assert len(set(by_chance.tolist())) < 50
