"""The unit files, judged by systemd itself: no complaint of any kind, and no more exposed than we say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edged.sections import Watchdog

UNITS = Path(__file__).parents[2] / "systemd"
ANALYZE = shutil.which("systemd-analyze")

# Tenths of systemd's exposure score. The goal for the daemon is 13; it stays one above it because its scrub children
# make a user and a network namespace for themselves, which is worth more than the 0.4 that it costs here.
EXPOSURE = {
    "edged.service": 14,
    "edged-web.service": 10,
    "edged-sync.service": 11,
    "edged-broker.service": 10,
    "edged-agent.service": 15,
    "edged-signer@.service": 3,
}
SOCKETS = ("edged-signer.socket",)

needs_systemd = pytest.mark.skipif(
    ANALYZE is None and os.environ.get("CI") != "true", reason="systemd-analyze is not installed"
)


def unit(name: str) -> dict[str, list[str]]:
    """Key -> values in order, all sections together."""
    found: dict[str, list[str]] = {}
    for line in (UNITS / name).read_text().splitlines():
        if "=" in line and not line.startswith(("#", ";")):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def verify(root: Path, texts: dict[str, str]) -> str:
    """What systemd has to say about units whose programs, absent here, are replaced by one that exists."""
    root.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (root / name).write_text(re.sub(r"(?m)^ExecStart=/opt/edged/bin/\S+", "ExecStart=/bin/true", text))
    command = [str(ANALYZE), "verify", "--man=no", *(str(root / name) for name in texts)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr + (f"exit code {done.returncode}" if done.returncode else "")


def test_each_unit_on_disk_has_an_exposure_limit_here() -> None:
    assert {p.name for p in UNITS.glob("*.service")} == EXPOSURE.keys()


@needs_systemd
def test_systemd_has_nothing_to_say_about_the_units(tmp_path: Path) -> None:
    assert {p.name for p in UNITS.iterdir()} == {*EXPOSURE, *SOCKETS}
    assert verify(tmp_path, {name: (UNITS / name).read_text() for name in (*EXPOSURE, *SOCKETS)}) == ""


@needs_systemd
def test_a_misspelt_key_would_be_seen_although_verify_exits_with_zero(tmp_path: Path) -> None:
    text = (UNITS / "edged.service").read_text()
    assert "WatchdogSec=" in text
    said = verify(tmp_path, {"edged.service": text.replace("WatchdogSec=", "WatchdogSecs=")})
    assert "WatchdogSecs" in said


@needs_systemd
@pytest.mark.parametrize("name", sorted(EXPOSURE))
def test_a_unit_is_no_more_exposed_than_we_say(name: str) -> None:
    command = [str(ANALYZE), "security", "--offline=true", "--no-pager", f"--threshold={EXPOSURE[name]}"]
    done = subprocess.run([*command, str(UNITS / name)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


@needs_systemd
def test_a_unit_without_its_walls_would_fail_that_check(tmp_path: Path) -> None:
    bare = "".join(
        line
        for line in (UNITS / "edged.service").read_text().splitlines(keepends=True)
        if not line.startswith(("Protect", "Private", "SystemCallFilter"))
    )
    path = tmp_path / "edged.service"
    path.write_text(bare)
    command = [str(ANALYZE), "security", "--offline=true", "--no-pager", f"--threshold={EXPOSURE['edged.service']}"]
    done = subprocess.run([*command, str(path)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0


@pytest.mark.parametrize("name", sorted(EXPOSURE))
def test_a_unit_starts_a_command_that_exists(name: str) -> None:
    (line,) = unit(name)["ExecStart"]
    program, *arguments = line.split()
    module = {"edged": "edged", "edged-agent": "agent"}[Path(program).name]
    # `--help` behind the verb is answered before any configuration is read.
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments, "--help"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout.lower()


@pytest.mark.parametrize("name", sorted(EXPOSURE))
def test_a_misconfigured_part_is_not_restarted_for_ever(name: str) -> None:
    assert unit(name)["RestartPreventExitStatus"] == ["78"]


@pytest.mark.parametrize("name", sorted(EXPOSURE))
def test_a_blas_choice_in_the_environment_cannot_kill_a_part_on_an_atom(name: str) -> None:
    assert unit(name)["UnsetEnvironment"] == ["OPENBLAS_CORETYPE"]


@pytest.mark.parametrize("name", sorted(EXPOSURE))
def test_no_part_leaves_a_crash_dump_with_pictures_or_keys(name: str) -> None:
    assert unit(name)["LimitCORE"] == ["0"]


def test_a_daemon_that_stands_still_is_replaced_and_its_own_watchdog_is_first_since_it_says_where() -> None:
    (seconds,) = unit("edged.service")["WatchdogSec"]
    assert Watchdog().loop_s < int(seconds) <= 30
    assert unit("edged.service")["Type"] == ["notify"]
    assert unit("edged.service")["Restart"] == ["on-failure"]
    assert int(unit("edged.service")["RestartSec"][0]) <= 2


def test_only_sync_may_reach_beyond_the_site() -> None:
    open_to_all = {name for name in EXPOSURE if unit(name).get("IPAddressDeny") != ["any"]}
    assert open_to_all == {"edged-sync.service"}


def test_writable_code_is_denied_wherever_no_network_is_run_or_trained() -> None:
    denied = {name for name in EXPOSURE if unit(name).get("MemoryDenyWriteExecute") == ["yes"]}
    assert denied == {"edged-web.service", "edged-sync.service", "edged-broker.service", "edged-signer@.service"}


def test_the_signer_is_a_user_of_its_own_whom_only_the_daemon_may_ask() -> None:
    service, listens = unit("edged-signer@.service"), unit("edged-signer.socket")
    assert service["User"] != unit("edged.service")["User"]
    assert (listens["SocketUser"], listens["SocketMode"], listens["Accept"]) == (["edged"], ["0600"], ["yes"])
    assert service["PrivateNetwork"] == ["yes"]
    assert service["StandardInput"] == service["StandardOutput"] == ["socket"]
    keys = service["ExecStart"][0].split()[-1]
    assert not any(keys in line for name in EXPOSURE for line in unit(name).get("ReadWritePaths", []))


def test_the_processes_that_sign_nothing_do_not_see_the_signing_keys() -> None:
    for name in ("edged-web.service", "edged-sync.service"):
        assert any("/var/lib/edged/keys/tuf" in line for line in unit(name).get("InaccessiblePaths", [])), name


def test_the_daemon_lets_its_scrub_children_leave_the_network() -> None:
    assert unit("edged.service")["RestrictNamespaces"] == ["user net"]
    assert not any("@resources" in value for value in unit("edged.service")["SystemCallFilter"])


@pytest.mark.parametrize("name", sorted(EXPOSURE))
def test_every_group_of_settings_says_why(name: str) -> None:
    text = (UNITS / name).read_text()
    assert text.startswith("# "), "the first line says what the unit is"
    for block in text.split("\n\n")[1:-1]:
        assert "# " in block, block
