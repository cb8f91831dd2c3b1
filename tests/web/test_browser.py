"""The page in a real browser: keys label, fragments refresh, nothing breaks the content security policy."""

from pathlib import Path

import pytest

from edged.storage import cameras, labels

pytestmark = pytest.mark.browser


def test_labelling_by_keyboard_from_the_first_key_to_the_undo(visit, past, street, store):
    past.meet("north")
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
    page.locator("section[aria-labelledby=fleet]").get_by_text("Release 3").wait_for()
    page.locator("section[aria-labelledby=models]").get_by_text("mobilenet-0.5").wait_for()
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
