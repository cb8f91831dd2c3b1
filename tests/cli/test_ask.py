"""Whatever is not easily taken back is asked for in one way: --yes, an answer on a terminal, or nothing is done."""

import json
import subprocess
import sys

import click
import pytest

from edged.cli import main
from edged.cli.ask import confirm
from edged.clock import SystemClock
from edged.config import load
from edged.errors import Refused
from edged.site import open_store
from edged.storage import masks, recover
from edged.storage.store import Store
from tests.cli.terminal import typed
from tests.cli.test_data import NOON, add

FORCES = {"edged db restore", "edged db rebuild"}  # --yes is no answer there: they refuse to touch what is good


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """One that nothing is done to."""
    folder = tmp_path_factory.mktemp("ask") / "site"
    made = run("init", "--data-dir", folder, "--site", "plant-a", "--classes", "car,bus", "--camera", "gate")
    assert made.returncode == 0, made.stderr
    with open_store(load(folder / "config.toml"), key=True) as store:
        recover.run(store)
        add(store, "gate", 0, NOON)
        masks.paint(store, "gate", "street", ((0, 0), (1, 0), (1, 1)), "anna")
    return folder


def command(*args):
    return [sys.executable, "-m", "edged", *map(str, args)]


def run(*args, said=""):
    return subprocess.run(command(*args), capture_output=True, text=True, timeout=60, input=said, check=False)


ASKING = {
    "purge": (("data", "purge", "--camera", "gate"), "2 pictures", "Erase this for ever?"),
    "mask": (("camera", "mask", "remove", "gate", "1"), "“street” hides; stored ones stay masked", "Take the mask away?"),
    "revoke": (("camera", "revoke", "gate"), "gate would be taken back for good", "Take it back?"),
    "phrase": (("key", "phrase"), "can open every picture", "Show them?"),
    "sign": (("trust", "sign", "{tuf}/1.root.json", "--key", "{tuf}/none"), "1 of the root, as above", "Sign this?"),
}  # fmt: skip


def of(site, which):
    args, what, question = ASKING[which]
    config = site / "config.toml"
    return ("-c", config, *(a.format(tuf=site / "tuf") for a in args)), what, question


def state(site):
    with Store.open(site, clock=SystemClock(), site_key=None, readonly=True) as store:
        rows = store.value("select count(*) from audit"), store.value("select count(*) from object")
    return rows, sorted((p.name, p.stat().st_mtime_ns) for p in (site / "keys").iterdir() if p.is_file())


@pytest.mark.parametrize("which", ASKING)
def test_where_nobody_is_there_nothing_is_done_and_it_says_what_would_be(site, which):
    args, what, _ = of(site, which)
    before = state(site)
    for said in ("", "y\n", "yes\n"):  # a pipe is nobody
        done = run("--json", *args, said=said)
        assert (done.returncode, done.stdout) == (1, ""), done.stderr
        told = json.loads(done.stderr.splitlines()[-1])["error"]
        assert (told["code"], what in told["message"]) == ("not_asked", True), told
        assert told["message"].endswith("; nobody is there to ask")
        assert told["hint"].startswith("--yes does it without asking")
    assert state(site) == before


@pytest.mark.parametrize("which", [which for which in ASKING if which != "phrase"])
def test_a_no_on_a_terminal_changes_nothing(site, which):
    args, what, question = of(site, which)
    before = state(site)
    for answer in ("n", ""):
        done = typed(answer, command(*args))
        assert (done.returncode, done.stdout) == (130, ""), done.stderr
        for words in (what, question, "nothing was changed"):
            assert words in done.stderr
    assert state(site) == before


def test_a_yes_on_a_terminal_goes_on_and_the_question_is_not_in_what_it_answers(site, tmp_path):
    made = run(
        "-c", site / "config.toml", "--json", "camera", "mask", "add", "gate", "0,0", "1,0", "1,1", "--name", "x"
    )
    number = json.loads(made.stdout)["id"]
    done = typed("y", command("-c", site / "config.toml", "--json", "camera", "mask", "remove", "gate", number))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["removed"] == number


def test_every_verb_that_asks_takes_yes_by_the_same_two_names():
    found = {}

    def walk(group, name):
        for word, verb in group.commands.items():
            if isinstance(verb, click.Group):
                walk(verb, f"{name} {word}")
            for option in verb.params:
                if option.name == "yes":
                    found[f"{name} {word}"] = set(option.opts)

    walk(main, "edged")
    assert len(found) >= 10
    assert {tuple(sorted(opts)) for opts in found.values()} == {("--yes", "-y")}
    assert found.keys() >= FORCES


def test_several_lines_are_one_sentence_where_nobody_is_there():
    with pytest.raises(Refused, match=r"^12 pictures; 2 keys; nobody is there to ask$"):
        confirm("12 pictures\n2 keys", "Erase?")
