"""Labels from the page: one row each, taken back one by one, by the browser that made them."""

import random

import pytest

from edged.storage import cycles, insights, labels, samples
from edged.storage.insights import Insight
from edged.web.questions import Asking

BY_SCRIPT = {"X-Fragment": "1"}


@pytest.fixture
def asked(past, plain, clock):
    """Two frames wait for labels; the cameras' guess is always a class of the task."""
    past.meet("north")
    for _ in range(2):
        past.frame("north", plain, model="a1" * 32)
        clock.sleep(30)


@pytest.fixture
def post(client, token, asked):
    """Send a form of the label section; the fragment that comes back."""
    form = {"csrf_token": token(client)}
    return lambda path, **fields: client.post(path, data=form | fields, headers=BY_SCRIPT)


def sample_in(text):
    import re

    found = re.search(r'name="sample" value="([^"]+)"', text)
    return found[1] if found else None


def effective(store):
    return {s.id: class_ for s, class_ in labels.effective(store)}


def test_an_answer_is_a_row_and_the_next_question_comes_back(client, post, store):
    first = sample_in(client.get("/").text)
    answer = post("/label", sample=first, **{"class": "vehicle"})
    assert effective(store) == {first: "vehicle"}
    (row,) = labels.of(store, first)
    assert (row.source, row.author) == ("human", "page")
    assert sample_in(answer.text) not in (None, first)
    assert "1 label so far, 3 waiting" in answer.text.replace("\u202f", "")


def test_undo_takes_back_one_answer_after_the_other_and_asks_again(client, post, store):
    first = sample_in(client.get("/").text)
    second = sample_in(post("/label", sample=first, **{"class": "vehicle"}).text)
    post("/label", sample=second, **{"class": "person"})
    assert sample_in(post("/label/undo").text) == second
    assert effective(store) == {first: "vehicle"}
    assert sample_in(post("/label/undo").text) == first
    assert effective(store) == {}
    assert post("/label/undo").status_code == 200  # nothing left to take back
    assert len(labels.of(store, first)) == 1  # the row is still there, marked as undone


def test_a_bad_crop_leaves_the_queue_and_every_training_set(client, post, store):
    first = sample_in(client.get("/").text)
    post("/label", sample=first, **{"class": ""})
    assert effective(store) == {}
    assert first not in {s.id for s in samples.unlabelled(store)}


def test_what_was_skipped_is_not_asked_again_until_undone(client, post, store):
    seen = []
    text = client.get("/").text
    while (sample := sample_in(text)) is not None:
        assert sample not in seen
        seen.append(sample)
        text = post("/label/skip", sample=sample).text
    assert len(seen) == 4
    assert "Nothing waits for a label" in text
    assert sample_in(post("/label/undo").text) == seen[-1]
    assert labels.count(store) == 0


@pytest.mark.parametrize("class_", ["dragon", "VEHICLE", "vehicle "])
def test_a_class_that_is_not_of_the_task_is_refused(client, post, store, class_):
    assert post("/label", sample=sample_in(client.get("/").text), **{"class": class_}).status_code == 400
    assert effective(store) == {}


def test_a_label_without_class_or_for_nothing_is_refused(client, post, store):
    assert post("/label", sample=sample_in(client.get("/").text)).status_code == 400
    assert post("/label", sample="north:nothing:0", **{"class": "vehicle"}).status_code == 404
    assert post("/label/skip", sample="north:nothing:0").status_code == 404
    assert effective(store) == {}


def test_one_browser_cannot_take_back_what_another_said(app, client, post, token, store):
    first = sample_in(client.get("/").text)
    post("/label", sample=first, **{"class": "vehicle"})
    other = app.test_client()
    assert other.post("/label/undo", data={"csrf_token": token(other)}, headers=BY_SCRIPT).status_code == 200
    assert effective(store) == {first: "vehicle"}


def test_a_hundred_answers_fit_into_the_cookie(client, token, past, plain, store, clock):
    past.meet("north")
    for _ in range(50):
        past.frame("north", plain)
        clock.sleep(30)
    form = {"csrf_token": token(client)}
    text = client.get("/").text
    for _ in range(100):
        answer = client.post("/label/skip", data=form | {"sample": sample_in(text)}, headers=BY_SCRIPT)
        text = answer.text
        assert len(answer.headers["Set-Cookie"]) < 4000
        assert sample_in(text)


def test_it_works_without_the_script(client, token, asked, store):
    form = {"csrf_token": token(client), "sample": sample_in(client.get("/").text), "class": "nothing"}
    answer = client.post("/label", data=form)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/#label")
    assert labels.count(store) == 1


def test_what_another_browser_labelled_is_not_asked_again(app, client, post, token, store):
    other = app.test_client()
    theirs = token(other)
    mine, answered = sample_in(client.get("/").text), set()
    text = other.get("/").text
    while (sample := sample_in(text)) is not None and len(answered) < 3:
        answered.add(sample)
        text = other.post(
            "/label", data={"csrf_token": theirs, "sample": sample, "class": "person"}, headers=BY_SCRIPT
        ).text
    left = {s.id for s in samples.unlabelled(store)}
    assert len(left) == 1
    assert sample_in(client.get("/label", headers=BY_SCRIPT).text) in left
    assert mine


def test_a_sample_that_came_after_the_queue_was_made_is_asked_when_the_rest_is_done(client, post, past, plain):
    for _ in range(4):
        post("/label", sample=sample_in(client.get("/").text), **{"class": "person"})
    assert sample_in(client.get("/").text) is None
    past.frame("north", plain)
    assert sample_in(client.get("/label", headers=BY_SCRIPT).text) is not None


@pytest.fixture
def plainly(store, past, plain, clock):
    """Samples by number of frame, each with a camera's answer `vehicle` and an insight; returns their ids."""

    def make(n, hash=lambda i: random.Random(i).getrandbits(63), **said):
        past.meet("north")
        made = []
        for _ in range(n):
            made += [s for s, _ in past.frame("north", plain, model="a1" * 32)]
            clock.sleep(30)
        store.execute("update sample set predicted = 'vehicle'")
        insights.add_many(store, [Insight(s, hash(i)) for i, s in enumerate(made)])
        if said:
            labels.add_many(
                store, [(s, c, score) for s, (c, score) in zip(made, said["teacher"], strict=False)], "teacher", "t"
            )
        return made

    return make


def test_it_says_why_it_asks_and_what_the_teacher_thinks(client, plainly):
    plainly(1, teacher=[("person", 0.97), ("person", 0.96)])
    text = client.get("/").text
    assert "Why this one: " in text
    assert "The teacher says <b>person</b>, 97" in text or "The teacher says <b>person</b>, 96" in text
    assert "says <b>vehicle</b>" in text


def test_of_an_audit_sample_nobodys_guess_is_shown(make_app, plainly, token):
    plainly(1, teacher=[("person", 0.97), ("person", 0.96)])
    client = make_app(asking=Asking(share=0.999999)).test_client()
    text = client.get("/").text
    assert "Nobody's guess is shown" in text
    assert "drawn by lot" in text
    for told in ("says <b>", "data-accept", "accepts the guess"):
        assert told not in text


def test_one_that_looks_like_what_was_just_labelled_is_told_and_another_is_not(app, token, plainly):
    for hash, similar in ((lambda i: 7, True), (lambda i: (0, 0xFFFF_FFFF)[i % 2], False)):
        plainly(1, hash)
        client = app.test_client()
        form = {"csrf_token": token(client), "sample": sample_in(client.get("/").text), "class": "person"}
        text = client.post("/label", data=form, headers=BY_SCRIPT).text
        assert sample_in(text)
        assert ("looks like one you have just labelled" in text) is similar
        while (sample := sample_in(text)) is not None:
            text = client.post("/label", data=form | {"sample": sample}, headers=BY_SCRIPT).text


def test_the_balance_of_classes_is_shown_and_a_large_imbalance_is_said(client, plainly, store, clock):
    made = plainly(14)
    labels.add_many(store, [(s, "vehicle") for s in made[:6]] + [(s, "person") for s in made[6:8]], "human", "ann")
    text = client.get("/").text
    assert "vehicle</span> <b>6</b>" in text
    assert "more than three times" not in text  # too few to say
    labels.add_many(store, [(s, "vehicle") for s in made[8:26]], "human", "ann")
    clock.sleep(20)
    assert "vehicle has more than three times the labels of " in client.get("/").text
    assert " style=" not in text


def test_the_way_to_the_next_cycle_is_shown(make_app, plainly, store, clock):
    made = plainly(3)
    client = make_app(asking=Asking(new_labels=3)).test_client()
    labels.add_many(store, [(s, "vehicle") for s in made[:2]], "human", "ann")
    text = client.get("/").text.replace("\u202f", "")
    assert "2 of 3 labels to the next cycle" in text
    clock.sleep(1)
    cycles.finish(store, cycles.start(store, "why"), "refused")
    assert "0 of 3 labels to the next cycle" in client.get("/").text
    labels.add_many(store, [(s, "vehicle") for s in made[2:5]], "human", "ann")
    assert "Enough labels for the next cycle" in client.get("/").text
    assert "to the next cycle" not in make_app().test_client().get("/").text


def test_where_teacher_and_camera_disagree_can_be_picked_with_and_without_the_script(client, plainly, token, store):
    made = plainly(4, teacher=[("vehicle", 0.9)] * 4 + [("person", 0.5), ("person", 0.9), ("vehicle", 1.0)])
    text = client.get("/").text
    picked = [part.split('"')[0] for part in text.split('data-ask="')[1:]]
    assert picked == [s for s in (made[5], made[4]) if not labels.is_audit(s)] != []
    assert "The teacher says person, the camera vehicle (North gate)" in text
    assert sample_in(client.get("/label", query_string={"ask": picked[0]}, headers=BY_SCRIPT).text) == picked[0]
    assert sample_in(client.get("/", query_string={"ask": picked[-1]}).text) == picked[-1]
    assert client.get("/label", query_string={"ask": "north:nothing:0"}, headers=BY_SCRIPT).status_code == 404
    form = {"csrf_token": token(client), "sample": picked[0], "class": "person"}
    store.clock.sleep(20)
    text = client.post("/label", data=form, headers=BY_SCRIPT).text
    assert f'data-ask="{picked[0]}"' not in text
