"""Labels go out and come in as files: nothing is lost on the way, every fault is named by its line."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.errors import Refused
from edged.storage import audit, census, labelfile, labels
from edged.storage.labelfile import Kept

CLASSES = ["car", "van"]
word = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12).filter(
    lambda s: s == s.strip() and s
)


@pytest.fixture
def six(store, add):
    """Samples gate:boot-0:0 to gate:boot-5:0."""
    for n in range(6):
        add(store, n, regions=1)
    return [f"gate:boot-{n}:0" for n in range(6)]


def told(text, format="csv"):
    lines, faults = labelfile.read(text.encode(), format)
    return [(x.n, x.sample, x.class_, x.score) for x in lines], [(f.line, f.reason) for f in faults]


@given(
    st.lists(
        st.tuples(word, word, st.none() | st.floats(0, 1), st.sampled_from(["human", "teacher"])),
        max_size=20,
        unique_by=lambda r: r[0],
    ),
    st.sampled_from(["csv", "jsonl"]),
)
def test_what_is_written_is_read_again(rows, format):
    kept = [Kept(s, c, score, source, 'anna, "the" first\n', 5.0) for s, c, score, source in rows]
    lines, faults = labelfile.read(labelfile.write(kept, format).encode(), format)
    assert [(x.sample, x.class_, x.score, x.source) for x in lines] == [
        (k.sample, k.class_, k.score, k.source) for k in kept
    ]
    assert faults == []


@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_an_export_imported_elsewhere_gives_the_same_labels(store, six, format):
    labels.add_many(store, [(six[0], "car"), (six[1], ""), (six[2], "van")], "human", "anna")
    labels.add_many(store, [(six[3], "van", 0.123456789012345), (six[0], "van", 1.0)], "teacher", "big")
    for source, author in (("human", "anna"), ("teacher", "big")):
        before = labelfile.kept(store, source)
        text = labelfile.write(before, format)
        labels.undo_author(store, author)
        lines, faults = labelfile.read(text.encode(), format)
        report = labelfile.check(store, lines, CLASSES, source, author)
        assert (faults, report.faults) == ([], ())
        labels.add_many(store, report.labels, source, author)
        after = labelfile.kept(store, source)
        assert [(k.sample, k.class_, k.score) for k in after] == [(k.sample, k.class_, k.score) for k in before]


def test_lines_with_and_without_a_header_in_any_order_with_a_mark_of_the_byte_order():
    assert told("a,car\nb,van,0.5\n") == ([(1, "a", "car", None), (2, "b", "van", 0.5)], [])
    assert told("\ufeffclass,ts,sample\ncar,x,a\n") == ([(2, "a", "car", None)], [])
    assert told("# note\n\na,car\r\n") == ([(3, "a", "car", None)], [])
    assert told('{"class": "car", "sample": "a", "more": [1]}\n\n', "jsonl") == ([(1, "a", "car", None)], [])


@pytest.mark.parametrize(
    ("text", "format", "line", "reason"),
    [
        ("a,car\nb\n", "csv", 2, "is not sample,class"),
        ("a,car\nb,van,0.5,x\n", "csv", 2, "is not sample,class"),
        ("a,car\nb,\n", "csv", 2, "lacks a sample or a class"),
        ("a,car\nb,van,1.5\n", "csv", 2, "between 0 and 1"),
        ("a,car\nb,van,nan\n", "csv", 2, "between 0 and 1"),
        ("a,car\nb,van,much\n", "csv", 2, "between 0 and 1"),
        ("sample,klass\na,car\n", "csv", 1, "no column class"),
        ('{"sample": "a", "class": "car"}\nnonsense\n', "jsonl", 2, "no JSON"),
        ("[1]\n", "jsonl", 1, "no JSON object"),
        ('{"sample": 5, "class": "car"}\n', "jsonl", 1, "are text"),
        ('{"sample": "a", "class": "car", "score": true}\n', "jsonl", 1, "between 0 and 1"),
        ('{"sample": "a", "class": "car", "score": [1]}\n', "jsonl", 1, "between 0 and 1"),
        ("[" * 100_000, "jsonl", 1, "no JSON"),
    ],
)
def test_a_fault_is_named_by_its_line(text, format, line, reason):
    (found,) = told(text, format)[1]
    assert found[0] == line
    assert reason in found[1]


def test_what_is_no_text_or_too_large_is_refused(monkeypatch):
    with pytest.raises(Refused, match="line 2 is not UTF-8"):
        labelfile.read(b"a,car\n\xff,van\n", "csv")
    monkeypatch.setattr(labelfile, "MAX_BYTES", 10)
    with pytest.raises(Refused) as e:
        labelfile.read(b"a,car\nb,van\n", "csv")
    assert e.value.code == "too_large"


@given(st.binary(max_size=300), st.sampled_from(["csv", "jsonl"]))
def test_no_bytes_break_the_reader(data, format):
    with contextlib.suppress(Refused):
        labelfile.read(data, format)


def test_unknown_samples_classes_outside_the_task_and_contradictions_are_faults(store, six):
    text = (
        f"{six[0]},car\n{six[1]},truck\nnobody,car\n{six[0]},van\n{six[2]},car,0.9\n{six[0]},car\n{six[3]},\u202ecar\n"
    )
    lines, _ = labelfile.read(text.encode(), "csv")
    report = labelfile.check(store, lines, CLASSES, "human", "anna")
    assert [(f.line, f.reason.split(":")[0][:24]) for f in report.faults] == [
        (2, "'truck' is no class of t"), (3, "there is no sample 'nobo"), (4, "says other than line 1 o"),
        (5, "has a score"), (7, "'\\u202ecar' is no class "),
    ]  # fmt: skip
    assert report.labels == ((six[0], "car", None),)
    assert report.same == 1  # the line that was there twice


def test_a_teachers_file_is_not_taken_for_a_persons(store, six):
    lines, _ = labelfile.read(f"sample,class,source\n{six[0]},car,teacher\n".encode(), "csv")
    (fault,) = labelfile.check(store, lines, CLASSES, "human", "anna").faults
    assert fault.reason == "is a label of source 'teacher', imported as human"
    assert labelfile.check(store, lines, CLASSES, "teacher", "big").new == 1


def test_the_report_tells_new_from_changed_and_what_is_there_already(store, six):
    labels.add(store, six[0], "car", "human", "anna")
    labels.add(store, six[1], "van", "human", "anna")
    labels.add(store, six[2], "van", "human", "ben")
    store.execute("update sample set object = null where id = ?", (six[3],))
    lines, _ = labelfile.read(
        "".join(f"{s},{c}\n" for s, c in zip(six, ["car", "-", "van", "van"], strict=False)).encode(), "csv"
    )
    report = labelfile.check(store, lines, CLASSES, "human", "anna")
    assert (report.new, report.changed, report.same, report.gone) == (
        1,
        1,
        2,
        1,
    )  # what ben said need not be said again
    assert report.classes == {"-": 1, "van": 1}
    labels.add_many(store, report.labels, "human", "anna")
    assert labelfile.check(store, lines, CLASSES, "human", "anna").labels == ()
    assert (audit.rows(store)[0].act, audit.verify(store)) == ("label.import", 1)


def test_a_dash_is_a_class_where_the_task_has_one(store, six):
    lines, _ = labelfile.read(f"{six[0]},-\n".encode(), "csv")
    assert labelfile.check(store, lines, ["-", "car"], "human", "anna").labels == ((six[0], "-", None),)
    assert labelfile.check(store, lines, CLASSES, "human", "anna").labels == ((six[0], "", None),)


def test_the_census_counts_what_counts_and_says_how_sure_it_is(store, six, add):
    add(store, 9, camera="yard", regions=1)
    labels.add_many(store, [(s, "car") for s in six], "human", "anna")
    labels.add_many(store, [(six[0], "van")], "human", "ben")
    labels.add_many(store, [(s, "van" if s == six[1] else "car", 0.9) for s in six], "teacher", "big")
    labels.undo(store, labels.add(store, "yard:boot-9:0", "car", "human", "ben"), "ben")
    assert [(c.source, c.author, c.class_, c.camera, c.n) for c in census.counts(store)] == [
        ("human", "anna", "car", "gate", 5), ("human", "ben", "van", "gate", 1),
        ("teacher", "big", "car", "gate", 5), ("teacher", "big", "van", "gate", 1),
    ]  # fmt: skip
    assert census.balance(store) == {"car": 5, "van": 1}
    apart = census.disagreement(store, 1.0)
    assert (apart.hits, apart.n) == (2, 6)
    assert apart.interval[0] < 2 / 6 < apart.interval[1]
    audited = census.audited(store, 1.0)
    assert (audited[""].hits, audited[""].n, audited["yard"].share) == (5, 6, None)
