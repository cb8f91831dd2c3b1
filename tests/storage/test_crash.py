"""What is on disk after a process died, and the order in which things get there."""

import hashlib
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edged.errors import Corrupt
from edged.storage import check, frames, models, objects, recover, samples

SCRIPT = Path(__file__).with_name("kill_at.py")

LOAD = """
import sys
sys.path.insert(0, {!r})
import kill_at
from pathlib import Path
kill_at.play(Path(sys.argv[1]), 0, int(sys.argv[2]), 10_000, False)
"""


def noise(name, size):
    return hashlib.shake_128(name.encode()).digest(size)


@pytest.fixture
def play(data_dir, open_store):
    """Run the adding program until it is killed at a step; gives the receipts it had, and whether it reached the end."""
    open_store().close()
    command = [sys.executable, str(SCRIPT), str(data_dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as program:

        def play_(kill_at, first, count, *broken):
            program.stdin.write(" ".join(map(str, (kill_at, first, count, *broken))) + "\n")
            told: list[str] = []
            while (line := program.stdout.readline()) != "over\n":
                assert line, "the program is gone"
                told.append(line.strip())
            return [n for n in told if n != "end"], "end" in told

        yield play_
        program.stdin.close()
        assert program.wait(30) == 0


def assert_sound(store, receipted):
    """Nothing receipted is lost, nothing is half there."""
    assert check.run(store) == []
    for frame_id in receipted:
        n = frame_id.removeprefix("boot-")
        receipt = frames.find_receipt(store, "gate", frame_id)
        assert receipt is not None, f"{frame_id} was receipted and is lost"
        assert receipt.status == "stored"
        assert objects.read(store, store.value("select object from frame where id = ?", (frame_id,))) == noise(
            f"scrubbed {n}", 3000
        )
        assert [samples.crop(store, f"gate:{frame_id}:{i}") for i in range(4)] == [
            noise(f"crop {i} {n}", 300) for i in range(4)
        ]


def test_killed_at_every_step_of_an_add_nothing_receipted_is_lost_and_nothing_is_half_there(play, open_store):
    n, brought, ended = 0, 0, False
    while not ended:
        n += 1
        receipted, ended = play(n, n, 1)
        with open_store() as store:
            brought += recover.run(store).frames
            assert_sound(store, receipted)
        again, _ = play(0, n, 1)  # the camera, without a receipt, sends it again
        with open_store() as store:
            assert_sound(store, again)
            assert frames.count(store) == n
    assert n > 20
    assert brought > 5  # it was caught between the flush and the rows


def test_killed_at_random_moments_under_load_nothing_receipted_is_lost(data_dir, open_store):
    open_store().close()
    rng = random.Random(5)
    receipted: list[str] = []
    for round_ in range(6):
        command = [sys.executable, "-c", LOAD.format(str(SCRIPT.parent)), str(data_dir), str(round_ * 10_000)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0) as child:
            wanted = rng.randrange(3, 40)
            got = b""
            while got.count(b"\n") < wanted:
                got += child.stdout.read(64)
            time.sleep(rng.random() * 0.01)
            child.kill()
            got += child.stdout.read()
        receipted += [line for line in got.decode().split("\n")[:-1] if line]
    with open_store() as store:
        recover.run(store)
        assert_sound(store, receipted)
        assert len(receipted) <= frames.count(store) <= len(receipted) + 6


def test_a_build_that_files_rows_before_objects_is_caught(play, open_store):
    """The negative control of this harness."""
    found = []
    for k in range(1, 80):
        _, ended = play(k, k, 1, "broken")
        with open_store() as store:
            recover.run(store)
            found += [f.code for f in check.run(store)]
        if ended:
            break
    assert ended
    assert "lost_object" in found


def test_a_model_appears_whole_and_a_damaged_one_is_noticed_and_can_be_put_again(store, tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"model")
    sha = models.put_model(store, tmp_path / "m.onnx")
    assert sha == hashlib.sha256(b"model").hexdigest() == models.put_model(store, b"model")
    path = models.model_path(store, sha)
    assert path.read_bytes() == b"model"
    path.write_bytes(b"modeL")
    with pytest.raises(Corrupt):
        models.model_path(store, sha)
    models.put_model(store, b"model")
    assert models.read_model(store, sha) == b"model"
