"""The page in a real browser: keys label, fragments refresh, nothing breaks the content security policy."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest

from edged.storage import cameras, cycles, deliveries, labels, releases, requests
from edged.web import ladder

pytestmark = pytest.mark.browser


def test_labelling_by_keyboard_from_the_first_key_to_the_undo(visit, past, street, store):
    past.meet("north")
    past.number = itertools.count(2)  # no sample of these frames is of the audit set: of those no guess is shown
    for _ in range(2):
        past.frame("north", street, model="a1" * 32)
        past.clock.sleep(30)
    page = visit()
    question = page.locator("#question")

    def press(key, says):
        page.keyboard.press(key)
        question.get_by_text(says).wait_for()

    total = len(question.locator("img").all()) and store.value("select count(*) from sample")
    guess = question.locator("[data-accept]").get_attribute("value")
    press("Space", f"1 label so far, {total - 1} waiting")
    press("2", f"2 labels so far, {total - 2} waiting")
    assert sorted(c for _, c in labels.effective(store)) == sorted([guess, "person"])
    press("u", f"1 label so far, {total - 1} waiting")
    press("x", f"1 label so far, {total - 2} waiting")
    assert [c for _, c in labels.effective(store)] == [guess]
    before = question.locator("img").get_attribute("src")
    page.keyboard.press("s")
    page.wait_for_function("src => document.querySelector('#question img')?.getAttribute('src') !== src", arg=before)
    assert labels.count(store) == 1


def test_buttons_do_what_keys_do_and_typing_with_ctrl_does_nothing(visit, past, street, store):
    past.meet("north")
    past.frame("north", street)
    page = visit()
    page.keyboard.press("Control+1")
    page.locator("#question").get_by_role("button", name="nothing").click()
    page.locator("#question").get_by_text("1 label so far").wait_for()
    assert [c for _, c in labels.effective(store)] == ["nothing"]


def test_what_changes_appears_by_itself_and_open_details_stay_open(visit, past, plain, store):
    past.all_of_it(plain, every=60)
    page = visit()
    page.locator("#why-2 summary").click()
    page.locator("#why-2 summary").focus()
    past.release(3, None, "d4" * 32, 300_000, state="rolling", south="IN_PROGRESS")
    made = past.candidate(3, "mobilenet-0.5", "d4" * 32, 300_000, 90, 100)
    assert made
    page.locator("section[aria-labelledby=fleet]").get_by_role("heading", name="Release 3").wait_for()
    page.locator("section[aria-labelledby=models]").get_by_text("mobilenet-0.5", exact=True).wait_for()
    assert page.locator("#why-2").get_attribute("open") is not None
    assert page.evaluate("document.activeElement.parentElement.id") == "why-2"
    cameras.set_online(store, "south", False)
    page.get_by_role("heading", level=1).get_by_text("1 of 2 cameras online").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_no_width_scrolls_sideways(visit, past, street, width, scheme, tmp_path):
    past.all_of_it(street, every=60)
    page = visit(width, 800, color_scheme=scheme)
    for details in page.locator("details").all():
        details.evaluate("d => d.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = page.evaluate(
        "[...document.querySelectorAll('main *')].filter(e => !e.closest('svg')"
        " && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
    )
    assert wide == []
    page.screenshot(path=Path(tmp_path) / "page.png", full_page=True)


def test_a_rollout_is_paused_by_one_press_and_given_up_by_two_and_the_question_outlives_a_refresh(visit, past, store):
    for camera in ("north", "south"):
        past.meet(camera)
    past.release(1, None, "d4" * 32, 300_000, state="rolling", south="IN_PROGRESS")
    page = visit()
    fleet = page.locator("section[aria-labelledby=fleet]")
    fleet.get_by_role("button", name="Pause release 1").click()
    resume = fleet.get_by_role("button", name="Resume release 1")
    resume.wait_for()
    abort = fleet.get_by_role("button", name="Abort release 1")
    assert not abort.is_visible()
    fleet.locator("summary", has_text="Abort").click()
    assert releases.get(store, 1).state == "paused"
    abort.focus()
    deliveries.upsert(store, 1, "north", "QUEUED")
    fleet.get_by_text("1 QUEUED").wait_for()
    assert abort.is_visible()
    assert page.evaluate("document.activeElement.textContent") == "Abort release 1"
    page.keyboard.press("Enter")
    fleet.get_by_text("Aborted by page").wait_for()
    assert releases.get(store, 1).state == "halted"
    assert not fleet.get_by_role("button").all()


def test_a_button_that_is_refused_says_why_until_one_is_not(visit, past, store):
    for camera in ("north", "south"):
        past.meet(camera)
    past.release(1, None, "d4" * 32, 300_000, state="rolling", south="IN_PROGRESS")
    page = visit()
    pause = page.get_by_role("button", name="Pause release 1")
    pause.wait_for()
    page.route("**/fleet", lambda route: route.fulfill(status=304))  # an old page
    releases.set_state(store, 1, "complete")
    pause.click()
    page.locator("#refused").get_by_text("release 1 is complete: pause needs one that is rolling").wait_for()
    page.get_by_role("button", name="Run a cycle now").click()
    page.locator("#refused").wait_for(state="hidden")
    [complaint] = visit.complaints  # Chromium's own line for the answer that was asked for
    assert "400" in complaint
    visit.complaints.clear()


def test_labels_that_overturn_take_two_presses(visit, store, monkeypatch):
    told = "30 of 90 labels that the present model learned now say another class: 30 by ann"
    monkeypatch.setattr(ladder.plan, "contradicted", lambda _: SimpleNamespace(told=told))
    cycles.finish(store, cycles.start(store, "30 new human labels"), "refused", told)
    section = visit().locator("section[aria-labelledby=cycle]")
    button = section.get_by_role("button", name="Learn from them all the same")
    assert not button.is_visible()
    section.locator("summary", has_text="These labels are right").click()
    button.click()
    button.wait_for(state="detached")
    assert [r.args for r in requests.pending(store)] == [{"overturn": True}]
