"""The painter over HTTP, as it works without its script: form in, row out; removing asks twice."""

import re

import pytest

from edged.storage import audit, masks

STREET = "0,0.4 0.3,0.4 0.3,1 0,1"
FIXED = {"north": [("window", ((0.5, 0.0), (1.0, 0.0), (1.0, 0.5)))]}
NASTY = '"><script>alert(1)</script>'


@pytest.fixture
def app(make_app):
    return make_app(fixed=FIXED)


@pytest.fixture
def post(client, token):
    form = {"csrf_token": token(client)}
    return lambda path, **fields: client.post(path, data=form | fields)


def test_a_mask_is_painted_for_a_camera_that_never_sent_anything(client, post, store):
    page = client.get("/camera/south/mask").text
    assert "Masks of South gate" in page
    assert "No picture yet" in page
    assert 'viewBox="0 0 1280 720"' in page
    assert "South gate · paint masks" in client.get("/cameras").text
    answer = post("/camera/south/mask", name="street", corners=STREET)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/camera/south/mask")
    (made,) = masks.holding(store, "south")
    assert (made.name, made.author, round(made.area, 9)) == ("street", "page", 0.18)
    text = client.get("/camera/south/mask").text
    assert "“street” covers its place in every picture from now on" in text
    assert "18.0 % of the picture" in text
    assert 'points="0.0,288.0 384.0,288.0 384.0,720.0 0.0,720.0"' in text
    assert "covers its place" not in client.get("/camera/south/mask").text, "said once"


def test_masks_lie_over_the_newest_picture_in_its_own_shape(client, past, plain):
    past.meet("north")
    past.frame("north", plain)
    text = client.get("/camera/north/mask").text
    assert re.search(r'<img src="/picture/north\.jpg\?frame=boot-\d+" alt="Last scrubbed picture of North gate"', text)
    assert "1 mask<" in client.get("/cameras").text


def test_removing_asks_again_says_what_it_means_and_leaves_an_audit_row(client, post, store):
    post("/camera/north/mask", name="street", corners=STREET)
    (made,) = masks.holding(store, "north")
    path = f"/camera/north/mask/{made.id}/remove"
    once = post(path)
    assert (once.status_code, once.headers["Location"]) == (303, f"/camera/north/mask?remove={made.id}")
    assert masks.holding(store, "north") == [made]
    asked = client.get(once.headers["Location"]).text
    assert "Remove “street”?" in asked
    assert "Pictures that are stored already stay masked" in asked
    assert f'action="{path}"' in asked
    assert post(path, sure="yes").status_code == 303
    assert masks.holding(store, "north") == []
    assert "“street” is gone" in client.get("/camera/north/mask").text
    assert [(e.actor, e.act, e.subject) for e in audit.rows(store)] == [
        ("page", "mask.remove", "north"),
        ("page", "mask.paint", "north"),
    ]
    assert post(path, sure="yes").status_code == 404


def test_a_mask_of_the_configuration_is_shown_and_has_no_button(client, post, store):
    text = client.get("/camera/north/mask").text
    assert "window" in text
    assert "from config.toml" in text
    assert "?remove=" not in text
    for number in ("0", "1", "-1", "window", "9" * 40, "٣"):
        assert post(f"/camera/north/mask/{number}/remove", sure="yes").status_code == 404, number
        assert client.get(f"/camera/north/mask?remove={number}").status_code == 404, number
    assert audit.rows(store) == []


@pytest.mark.parametrize(
    ("corners", "why"),
    [
        ("", "3 to 32"),
        ("0,0 1,0", "3 to 32"),
        ("0,0 1,1 1,0 0,0.9", "must not cross"),
        ("0,0 0.5,0.5 1,1", "enclose nothing"),
        ("0,0 1,0 1,1.2", "from 0 to 1"),
        ("0,0 1,0 nan,1", "from 0 to 1"),
        ("here there anywhere", "are written"),
        ("0,0 " * 900 + "x", "are written"),
        ("0,0 " * 1100, "too long"),
    ],
)
def test_what_is_no_mask_comes_back_with_the_reason_and_what_was_written(client, post, store, corners, why):
    answer = post("/camera/north/mask", name="my street", corners=corners)
    assert answer.status_code == 400
    assert why in answer.text
    assert 'value="my street"' in answer.text
    assert corners in answer.text
    assert masks.holding(store) == []


def test_a_mask_without_a_name_or_one_too_many_is_refused(client, post, store):
    assert "can be printed" in post("/camera/north/mask", name=" ", corners=STREET).text
    for i in range(masks.MOST):
        masks.paint(store, "north", f"{i}", masks.parse_polygon(STREET), "anna")
    assert "which is the most it may have" in client.get("/camera/north/mask").text
    assert post("/camera/north/mask", name="one more", corners=STREET).status_code == 400
    assert len(masks.holding(store)) == masks.MOST


def test_one_camera_cannot_remove_the_mask_of_another_and_unknown_ones_are_404(client, post, store):
    made = masks.paint(store, "south", "street", masks.parse_polygon(STREET), "anna")
    assert post(f"/camera/north/mask/{made.id}/remove", sure="yes").status_code == 404
    assert masks.holding(store) == [made]
    for path in ("/camera/nobody/mask", "/camera/planted/mask", "/camera/..%2f..%2f/mask", "/camera/%00/mask"):
        assert client.get(path).status_code == 404, path
        assert post(path, name="street", corners=STREET).status_code == 404, path


def test_names_are_text(client, post, store, make_app):
    post("/camera/north/mask", name=NASTY, corners=STREET)
    (made,) = masks.holding(store)
    for path in ("/camera/north/mask", f"/camera/north/mask?remove={made.id}"):
        text = client.get(path).text
        assert "<script>alert" not in text
        assert "&lt;script&gt;alert" in text
        assert " style=" not in text
        assert text.count("<script") == text.count("<script src=")
        assert "https://" not in text


def test_a_form_without_the_token_changes_nothing(client, store):
    made = masks.paint(store, "north", "street", masks.parse_polygon(STREET), "anna")
    for path in ("/camera/north/mask", f"/camera/north/mask/{made.id}/remove"):
        assert client.post(path, data={"name": "x", "corners": STREET, "sure": "yes"}).status_code == 400
    assert masks.holding(store) == [made]
