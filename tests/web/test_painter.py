"""The painter in a real browser: a polygon by mouse, by touch and by keyboard, nothing but what was drawn is saved."""

import pytest

from edged.storage import audit, masks

pytestmark = pytest.mark.browser

FIXED = {"north": [("window", ((0.6, 0.0), (1.0, 0.0), (1.0, 0.4), (0.6, 0.4)))]}
CORNERS = [(0.2, 0.3), (0.6, 0.3), (0.6, 0.8), (0.2, 0.8)]


@pytest.fixture
def app(make_app):
    return make_app(fixed=FIXED)


@pytest.fixture
def paint(visit, past, street):
    """The painter of a camera, in a window of a size."""
    past.meet("north")
    past.frame("north", street)
    return lambda camera="north", **options: visit(path=f"/camera/{camera}/mask", **options)


def at(page, x, y):
    box = page.locator("#stage").bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def saved(store, camera="north"):
    (made,) = masks.holding(store, camera)
    return [(round(x, 2), round(y, 2)) for x, y in made.polygon]


def save(page, name="street"):
    page.get_by_label("Name").fill(name)
    page.get_by_role("button", name="Save the mask").click()
    page.get_by_text(f"“{name}” covers its place").wait_for()


def test_by_mouse_corners_are_set_dragged_and_the_outline_closed_at_its_first(paint, store):
    page = paint()
    for x, y in [*CORNERS[:3], (0.3, 0.7)]:
        page.mouse.click(*at(page, x, y))
    page.get_by_text("4 corners. Close the outline").wait_for()
    page.mouse.move(*at(page, 0.3, 0.7))
    page.mouse.down()
    page.mouse.move(*at(page, 0.22, 0.75), steps=3)
    page.mouse.move(*at(page, 0.2, 0.8), steps=3)
    page.mouse.up()
    page.mouse.click(*at(page, *CORNERS[0]))
    page.get_by_text("The outline is closed, 4 corners").wait_for()
    page.mouse.click(*at(page, 0.9, 0.9))  # sets no corner any more
    save(page)
    assert saved(store) == CORNERS
    assert [(e.actor, e.act) for e in audit.rows(store)] == [("page", "mask.paint")]


def test_by_keyboard_alone_from_the_first_corner_to_the_saved_mask(paint, store):
    page = paint()
    page.get_by_role("button", name="Add a corner").focus()
    page.keyboard.press("Enter")  # at 0.5, 0.5

    def move(**presses):
        for key, n in presses.items():
            for _ in range(n):
                page.keyboard.press(key.replace("Shift", "Shift+"))

    move(ArrowLeft=30, ArrowUp=20)
    page.keyboard.press("Space")  # at 0.25, 0.3
    move(ArrowRight=34, ShiftArrowRight=12, ShiftArrowLeft=2)
    page.keyboard.press("Space")  # at 0.65, 0.3
    move(ArrowLeft=5, ArrowDown=50)
    page.keyboard.press("Space")  # at 0.65, 0.8
    page.keyboard.press("Space")  # one too many
    page.get_by_text("5 corners").wait_for()
    page.keyboard.press("Delete")
    assert (
        page.evaluate("document.activeElement.getAttribute('aria-label')")
        == "Corner 4 of 4, 65.0 % across, 80.0 % down"
    )
    move(ArrowLeft=45)
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "name"
    page.keyboard.type("street")
    page.keyboard.press("Enter")
    page.get_by_text("“street” covers its place").wait_for()
    assert saved(store) == CORNERS


def test_by_touch_on_a_phone_for_a_camera_without_a_picture(paint, store):
    page = paint("south", width=390, height=844, has_touch=True, is_mobile=True)
    for x, y in CORNERS:
        page.touchscreen.tap(*at(page, x, y))
    page.get_by_role("button", name="Close the outline").tap()
    save(page)
    assert saved(store, "south") == CORNERS


def test_escape_takes_a_drag_back_and_then_all_corners(paint, store):
    page = paint()
    for x, y in CORNERS:
        page.mouse.click(*at(page, x, y))
    page.mouse.move(*at(page, 0.6, 0.8))
    page.mouse.down()
    page.mouse.move(*at(page, 0.9, 0.9), steps=3)
    page.keyboard.press("Escape")
    page.mouse.up()
    page.locator("#numbers summary").click()
    drawn = masks.parse_polygon(page.locator("#corners-text").input_value())
    assert [(round(x, 2), round(y, 2)) for x, y in drawn] == CORNERS
    page.mouse.click(*at(page, *CORNERS[0]))
    page.get_by_role("button", name="Start over").focus()
    page.keyboard.press("Escape")
    page.get_by_text("No corner yet").wait_for()
    page.get_by_label("Name").fill("street")
    page.get_by_role("button", name="Save the mask").click()
    page.get_by_text("Set at least 3 corners first").wait_for()
    assert masks.holding(store) == []


def test_numbers_written_by_hand_are_drawn_and_refused_ones_stay_to_be_mended(visit, paint, store):
    page = paint()
    page.locator("#numbers summary").click()
    page.locator("#corners-text").fill("0,0 1,1 1,0 0,0.9")
    assert page.locator(".corner").count() == 4
    page.get_by_label("Name").fill("bow tie")
    page.get_by_role("button", name="Save the mask").click()
    page.get_by_text("must not cross").wait_for()
    assert "status of 400" in visit.complaints.pop()
    page.locator(".corner").nth(3).wait_for()  # drawn again from what was written
    assert masks.holding(store) == []


def test_removing_is_asked_again_and_keeping_is_what_the_focus_is_on(paint, store):
    made = masks.paint(store, "north", "street", CORNERS, "anna")
    page = paint()
    page.get_by_role("link", name="Remove…").click()
    page.get_by_role("heading", name="Remove “street”?").wait_for()
    assert page.evaluate("document.activeElement.textContent") == "Keep it"
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Remove…").wait_for()
    assert masks.holding(store) == [made]
    page.get_by_role("link", name="Remove…").click()
    page.get_by_role("button", name="Remove this mask").click()
    page.get_by_text("“street” is gone").wait_for()
    assert masks.holding(store) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_scrolls_sideways_and_what_is_touched_is_large_enough(paint, store, width, scheme):
    masks.paint(store, "north", "a" * 60, CORNERS, "anna")
    page = paint(width=width, height=800, color_scheme=scheme)
    for x, y in CORNERS[:3]:
        page.mouse.click(*at(page, x, y))
    for details in page.locator("details").all():
        details.evaluate("d => d.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    small = page.evaluate(
        "[...document.querySelectorAll('main button, main input:not([type=hidden]), main textarea, a:not(.skip), main summary')]"
        ".filter(e => e.getBoundingClientRect().height < 44).map(e => e.outerHTML.slice(0, 80))"
    )
    assert small == []
