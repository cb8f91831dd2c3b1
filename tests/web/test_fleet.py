"""The page Fleet: how each rollout stands, in AWS IoT's words, the canary first, and why a camera did not take it."""

import pytest

from edged.publish import fleet
from edged.publish.rules import Rules
from edged.storage import audit, blocked, cameras, deliveries, releases
from edged.web import outlook
from edged.wire.messages import CameraInfo, Health, Reported

NAMES = [f"cam-{i}" for i in range(8)]
RULES = Rules(wait_s=600, steps=(0.5, 1.0))


@pytest.fixture
def rolling(store):
    """Release 2 rolls by rules of its own; one is complete before it."""
    for name in NAMES:
        cameras.set_online(store, name, True)
    for number, state in ((1, "complete"), (2, "waiting")):
        releases.add(
            store, number=number, name="street", candidate=None, sha256=f"{number}" * 64, size=276_113,
            target=f"street/{number}.onnx", classes=("a", "b"), state=state,
        )  # fmt: skip
    fleet.start(store, 2, RULES, "Ada")
    return store


def told(store, camera, status, **more):
    deliveries.upsert(store, 2, camera, status, **more)


def text(client):
    return " ".join(client.get("/fleet").text.split())


def page_of(page, number):
    """What is said of one release."""
    [found] = [part for part in page.split("<article") if f"Release {number} " in part[:80]]
    return found


def add(store, number, **more):
    releases.add(
        store, number=number, name="street", candidate=None, sha256=f"{number}" * 64, size=9,
        target=f"street/{number}.onnx", classes=("a", "b"), state="waiting", **more,
    )  # fmt: skip


def runs(store, camera, number):
    cameras.set_reported(store, camera, Reported("street", number, f"{number}" * 64, f"release-{number}", "SUCCEEDED"))


def waits(store):
    return outlook.look(store, releases.get(store, 2), store.clock.now(), RULES).waits


def test_a_rollout_shows_its_state_its_plan_and_a_bar_with_a_word_for_each_part(client, rolling):
    told(rolling, "cam-3", "IN_PROGRESS", progress=0.4, canary=True)
    page = text(client)
    assert "Release 2 " in page
    assert "<small>IN_PROGRESS</small>" in page
    assert "A canary first, then 50 % and 100 % of the cameras once it has run it for 10 min." in page
    assert "Waits for canary cam-3, 40 %." in page
    assert 'aria-label="1 IN_PROGRESS, 7 NOT TOLD"' in page
    assert "Pause release 2" in page
    assert "Resume" not in page
    assert page.count("<article") == 2


def test_the_canary_comes_first_then_who_did_not_take_it_and_why_in_the_cameras_words(client, rolling):
    told(rolling, "cam-7", "SUCCEEDED", canary=True, health=Health(20, 8.0, 8.0, 0.93, 0.1, 40), signed=True)
    words = {
        "cam-0": "release 2 is for atom; this camera is generic",
        "cam-1": "release 2 has 70000000 bytes; this camera takes 67108864",
        "cam-2": "the classes of release 2 are not those of this camera",
        "cam-4": "the signed timestamp ended on 2026-11-01",
    }
    told(rolling, "cam-3", "SUCCEEDED")
    for camera, why in words.items():
        told(rolling, camera, "REJECTED", detail=why)
    page = text(client)
    places = [page.index(f"<span>{name}") for name in ("cam-7", "cam-0", "cam-1", "cam-2", "cam-4", "cam-3")]
    assert places == sorted(places)
    assert "cam-7 <small>canary</small>" in page
    assert (
        "Agrees with the model before on 93 % of 40 regions, 8.0 frames/s (before 8.0), confidence moved by 0.10"
        in page
    )
    for why in words.values():
        assert why in page


def test_a_camera_that_is_not_well_is_bad_although_it_succeeded(client, rolling):
    told(rolling, "cam-0", "SUCCEEDED", canary=True, unwell="it agrees with <nobody>", signed=False)
    page = text(client)
    assert "✕ UNWELL" in page
    assert "It agrees with &lt;nobody&gt;" in page
    assert "What it said was not signed." in page


def test_a_halted_release_says_why_and_that_its_bytes_are_blocked(client, rolling):
    fleet.abort(rolling, 2, "Ada", "ghosts")
    page = text(client)
    assert "<small>CANCELED</small>" in page
    assert "Aborted by Ada: ghosts" in page
    assert "edged rollout unblock 222222222222 --yes" in page
    blocked.remove(rolling, "2" * 64, "Ada")
    assert "unblock" not in text(client)


def test_a_large_fleet_is_cut_short_and_nothing_of_it_is_hidden(client, rolling):
    for i in range(outlook.SHOWN_CAMERAS + 12):
        cameras.set_online(rolling, f"c{i:03}", True)
        told(rolling, f"c{i:03}", "SUCCEEDED")
    page = text(client)
    assert "52 cameras told" in page
    assert "12 more: <code>edged rollout status 2</code>" in page


def test_what_is_waited_for_is_said_at_every_step(rolling, clock):
    assert waits(rolling) == "a camera that is online, to be the canary"
    told(rolling, "cam-0", "QUEUED", canary=True)
    assert waits(rolling) == "canary cam-0 to begin"
    told(rolling, "cam-0", "SUCCEEDED")
    assert waits(rolling) == "10 min more, in which the canary is watched"
    clock.sleep(600)
    assert waits(rolling) == "the next step"
    told(rolling, "cam-1", "QUEUED")
    told(rolling, "cam-2", "IN_PROGRESS")
    assert waits(rolling) == "2 cameras of this step"
    fleet.pause(rolling, 2, "Ada")
    assert waits(rolling) == "a person to go on with it"
    releases.set_state(rolling, 2, "complete")
    assert waits(rolling) == ""
    cameras.set_online(rolling, "cam-1", False)
    assert waits(rolling) == "1 offline camera, told already"


def test_a_release_that_waits_says_for_whom(client, rolling):
    fleet.pause(rolling, 2, "Ada")
    releases.add(
        rolling, number=3, name="street", candidate=None, sha256="3" * 64, size=9, target="street/3.onnx", classes=("a",),
        state="waiting",
    )  # fmt: skip
    page = text(client)
    assert "Waits for release 2, which is paused." in page
    assert "Start release 3" in page
    assert "Waiting" in client.get("/now").text


def test_the_verdict_says_that_a_rollout_is_paused_and_by_whom(client, rolling):
    fleet.pause(rolling, 2, "Ada")
    assert "release 2 is paused by Ada" in " ".join(client.get("/now").text.split())


# the buttons


def press(client, token, act, release, **headers):
    form = {"csrf_token": token(client), "release": release}
    return client.post(f"/rollout/{act}", data=form, headers=headers)


def test_a_rollout_is_paused_resumed_and_aborted_by_buttons_and_the_audit_log_says_that_it_was_the_page(
    client, token, rolling
):
    said = []
    for act in ("pause", "resume", "abort"):
        assert press(client, token, act, 2).headers["Location"] == "/#fleet"
        said.append(releases.get(rolling, 2).state)
    assert said == ["paused", "rolling", "halted"]
    assert blocked.get(rolling, "2" * 64).reason == "aborted by page"
    acts = [(r.actor, r.act) for r in audit.rows(rolling, 4) if r.act.startswith("rollout.")]
    assert acts == [("page", f"rollout.{act}") for act in ("abort", "resume", "pause")]
    assert page_of(text(client), 2).count("<button") == 0


def test_the_script_is_answered_without_a_page(client, token, rolling):
    answer = press(client, token, "pause", 2, **{"X-Fragment": "1"})
    assert (answer.status_code, answer.text) == (204, "")


def test_a_release_that_waits_is_started_by_the_rules_of_the_configuration(make_app, token, rolling):
    releases.add(
        rolling, number=3, name="street", candidate=None, sha256="3" * 64, size=9, target="street/3.onnx", classes=("a",),
        state="waiting",
    )  # fmt: skip
    client = make_app(rolled=Rules(canary=2, wait_s=77)).test_client()
    page = page_of(text(client), 3)
    assert "2 canaries first, then 50 % and 100 % of the cameras once they have run it for 77 s." in page
    assert "Release 2 is on its way and is superseded then" in page
    refused = press(client, token, "start", 3)
    assert (refused.status_code, releases.get(rolling, 2).state) == (400, "rolling")
    assert "release 2 is rolling: release 3 would take its place" in refused.text
    assert press(client, token, "start?replace=1", 3).status_code == 303
    started = releases.get(rolling, 3)
    assert (started.state, started.actor) == ("rolling", "page")
    assert (started.rules["canary"], started.rules["wait_s"]) == (2, 77)
    assert releases.get(rolling, 2).state == "superseded"


def test_a_button_of_an_old_page_changes_nothing_and_says_why(client, token, rolling):
    fleet.abort(rolling, 2, "Ada")
    before = [(r.number, r.state) for r in releases.all(rolling)]
    for act in ("start", "pause", "resume", "abort"):
        answer = press(client, token, act, 2)
        assert (answer.status_code, "release 2" in answer.text) == (400, True), answer.text
    for wrong, status in (("9", 404), ("", 400), ("-2", 400), ("2 or 3", 400), ("9" * 30, 400), ("²", 400)):
        assert press(client, token, "abort", wrong).status_code == status, wrong
    assert [(r.number, r.state) for r in releases.all(rolling)] == before


def test_blocked_bytes_have_no_start_button(client, token, rolling):
    blocked.add(rolling, "3" * 64, release=2, reason="ghosts", author="Ada")
    releases.add(
        rolling, number=3, name="street", candidate=None, sha256="3" * 64, size=9, target="street/3.onnx", classes=("a",),
        state="waiting",
    )  # fmt: skip
    assert "Start release 3" not in text(client)
    assert "ghosts" in press(client, token, "start", 3).text


def test_the_fleet_carries_no_token_so_that_what_has_not_changed_is_304(client, rolling):
    first = client.get("/fleet")
    rolling.clock.sleep(5)
    assert "csrf" not in first.text
    assert client.get("/fleet", headers={"If-None-Match": first.headers["ETag"]}).status_code == 304


# who is left out, and who runs what was given up


def test_whom_a_release_does_not_fit_is_named_with_the_reason_and_counted(client, rolling):
    for name in NAMES:
        cameras.set_info(rolling, name, CameraInfo("b", "1.0", "atom" if name == "cam-3" else "generic", (), 1))
    add(rolling, 3, hardware=("generic",), min_agent="0.9")
    fleet.start(rolling, 3, RULES, "Ada", instead=True)
    page = page_of(text(client), 3)
    assert "1 camera left out" in page
    assert "<span>cam-3</span>" in page
    assert "It is atom, the release is for generic" in page
    assert 'aria-label="7 NOT TOLD, 1 LEFT OUT"' in page
    assert 'edged_rollout_cameras{status="LEFT_OUT"} 1.0' in client.get("/metrics").text
    found = outlook.look(rolling, releases.get(rolling, 3), 0.0, RULES)
    assert found.document()["left_out"] == [{"camera": "cam-3", "why": "it is atom, the release is for generic"}]


def test_a_release_that_has_ended_still_says_who_was_left_out(rolling):
    for name in NAMES:
        cameras.set_info(rolling, name, CameraInfo("b", "1.0", "atom" if name == "cam-3" else "generic", (), 1))
    add(rolling, 3, hardware=("generic",))
    fleet.start(rolling, 3, RULES, "Ada", instead=True)
    deliveries.upsert(rolling, 3, "cam-0", "SUCCEEDED")
    rolling.clock.sleep(5)
    fleet.abort(rolling, 3, "Ada")
    rolling.clock.sleep(5)
    cameras.set_info(rolling, "newcomer", CameraInfo("b", "1.0", "atom", (), 1))  # it was not there then
    found = outlook.look(rolling, releases.get(rolling, 3), 0.0, RULES)
    assert found.counts == {"SUCCEEDED": 1, outlook.LEFT_OUT: 1}
    assert [camera for camera, _ in found.left_out] == ["cam-3"]


def test_a_release_that_fits_nobody_says_so(client, rolling):
    for name in NAMES:
        cameras.set_info(rolling, name, CameraInfo("b", "1.0", "atom", (), 1))
    add(rolling, 3, hardware=("generic",))
    fleet.start(rolling, 3, RULES, "Ada", instead=True)
    page = page_of(text(client), 3)
    assert (
        "Waits for a camera that it fits (cam-0: it is atom, the release is for generic; and 7 more are left out)"
        in page
    )


def test_a_rollout_that_no_camera_has_come_for_says_whom_it_waits_for(store):
    add(store, 1)
    fleet.start(store, 1, RULES, "Ada")
    found = outlook.look(store, releases.get(store, 1), 0.0, RULES, configured=("gate", "yard"))
    assert found.waits == "a camera: gate and yard have not spoken yet"
    assert found.document()["silent"] == ["gate", "yard"]
    cameras.set_info(store, "yard", CameraInfo("b", "1.0", "generic", (), 1))
    cameras.set_online(store, "yard", True)
    found = outlook.look(store, releases.get(store, 1), 0.0, RULES, configured=("gate", "yard"))
    assert (found.silent, found.waits) == (("gate",), "a camera that is online, to be the canary")
    add(store, 2, cameras=("yard",))
    assert outlook.look(store, releases.get(store, 2), 0.0, RULES, configured=("gate", "yard")).silent == ()


def test_who_still_runs_a_halted_release_is_named_with_what_follows(client, rolling):
    runs(rolling, "cam-0", 2)
    runs(rolling, "cam-1", 2)
    before = page_of(text(client), 2)
    assert "Its bytes are blocked for good; 2 cameras that run it go back to the model of release 1." in before
    fleet.abort(rolling, 2, "Ada")
    assert "cam-0 and cam-1 still run it; release 1 was the last good one" in page_of(text(client), 2)
    add(rolling, 3, returns_to=1)
    assert "cam-0 and cam-1 still run it, until release 3 reaches them." in page_of(text(client), 2)


def test_where_there_is_none_to_go_back_to_that_is_said_before_and_after(client, rolling):
    releases.set_state(rolling, 1, "halted")
    runs(rolling, "cam-0", 2)
    assert "1 camera runs it and keeps it, since there is no earlier release" in page_of(text(client), 2)
    fleet.abort(rolling, 2, "Ada")
    assert "cam-0 still runs it: there is no earlier release to return to" in page_of(text(client), 2)


def test_a_complete_release_is_aborted_on_the_page_as_on_the_command_line(client, token, rolling):
    releases.set_state(rolling, 2, "complete")
    assert "Abort release 2" in page_of(text(client), 2)
    assert "Abort" not in page_of(text(client), 1)  # nobody is offered that one any more
    assert press(client, token, "abort", 2).status_code == 303
    assert releases.get(rolling, 2).state == "halted"
