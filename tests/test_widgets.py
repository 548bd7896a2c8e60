"""The kernel's side of the widgets: what the browser is sent and answered, what is refused, what is left as text."""

import dataclasses
import datetime
import io
import json
import re
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import skimage.data
from conftest import refuses
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image
from test_audit import make_faces
from test_metrics import made_up

from bioface import decomposition, plotting, shading, widgets
from bioface.identifiability import MAPS
from bioface.training import LOSSES, History
from study import notebook


def faces(n, truth=None):
    return dataclasses.replace(make_faces(n or 1)[:n], truth=truth)


def panels(widget):
    """By label, what the browser finds in the bytes: values (N, H, W, C) and colours (N, H, W, 3)."""
    spec, data = widget.spec, widget.data
    shape, found = (len(spec["names"]), *spec["size"]), {}
    for m in spec["maps"]:
        places = (("<f4", len(m["letters"]), m["values"]), (np.uint8, 3, m["colours"]))
        found[m["label"]] = [
            np.frombuffer(data, kind, np.prod(shape) * channels, start).reshape(*shape, channels)
            for kind, channels, start in places
        ]
    return found


def test_a_mapping_arrives_with_its_values_its_colours_and_its_unit():
    rng = np.random.default_rng(2)
    height = plotting.Quantity("height", "viridis", 0, 2, "mm")
    given = {"melanin": rng.uniform(0, 0.43, (3, 5, 4)), "rgb": rng.random((3, 5, 4, 3)), "own": np.ones((3, 5, 4))}
    mask = rng.random((3, 5, 4)) > 0.3
    widget = widgets.scrub(given, quantities={"own": height}, mask=mask, names=list("abc"), scores=[0.1, np.nan, 0.3])
    found = panels(widget)
    values, colours = found["melanin"]
    assert np.array_equal(values[mask][:, 0], given["melanin"][mask].astype(np.float32))
    assert np.isnan(values[~mask]).all()
    assert np.array_equal(colours, plotting.painted(given["melanin"], "melanin", mask=mask))
    assert np.abs(found["sRGB image"][1] / 255 - given["rgb"]).max() < 0.003  # shown whole
    assert [m["unit"] for m in widget.spec["maps"]] == ["volume fraction", "", "mm"]
    assert [m.get("high") for m in widget.spec["maps"]] == [0.43, None, 2] and "own" in found
    assert widget.spec["scores"] == [0.1, None, 0.3]
    assert len(widget.data) == sum(v.nbytes + c.nbytes for v, c in found.values())


def test_faces_bring_their_shading_their_score_and_their_names():
    some = faces(3)
    some.mask[1] = False
    widget = widgets.scrub(some)
    assert widget.spec["names"] == ["made_up:0", "made_up:1", "made_up:2"]
    expected = shading.mismatch_score(some[[0, 2]])
    assert np.allclose([widget.spec["scores"][k] for k in (0, 2)], expected) and widget.spec["scores"][1] is None
    stored = panels(widget)["stored shading"][0][0, ..., 0]
    assert np.array_equal(stored[some.mask[0]], shading.stored_shading(some)[0][some.mask[0]])
    letters = {m["label"]: "".join(m["letters"]) for m in widget.spec["maps"]}
    assert letters == {"sRGB image": "RGB", "normals": "xyz", "coordinate map": "xyz", "stored shading": ""}


def test_the_truth_is_shown_where_there_is_one():
    truth = SimpleNamespace(**dict.fromkeys(MAPS, np.full((2, 64, 64), 0.05, np.float32)), mismatch=[False, True])
    widget = widgets.scrub(faces(2, truth), scores=[1, 2])
    true = {"melanin", "haemoglobin", "diffuse shading", "specular shading", "stored shading, error"}
    assert true <= set(panels(widget))
    assert [("wrong" in about) for about in widget.spec["about"]] == [False, True]
    assert widget.spec["scores"] == [1, 2]


MAP = np.ones((1, 2, 2))
NO_SAMPLES = {
    "a list": ([MAP], {}, "found list"),
    "unknown map": ({"melanine": MAP}, {}, "did you mean 'melanin'"),
    "shape": ({"melanin": MAP[0]}, {}, r"expected numbers \(N, H, W\)"),
    "text": ({"melanin": np.array([[["a"]]])}, {}, "expected numbers"),
    "grey photo": ({"rgb": MAP}, {}, r"\(N, H, W, 3\)"),
    "other sizes": ({"melanin": MAP, "rgb": np.ones((1, 3, 2, 3))}, {}, "equally many"),
    "mask": ({"melanin": MAP}, {"mask": MAP[0]}, r"mask: expected shape \(1, 2, 2\), found \(2, 2\)"),
    "names": ({"melanin": MAP}, {"names": "ab"}, "names: expected shape"),
    "scores": ({"melanin": MAP}, {"scores": [1, 2]}, "scores: expected shape"),
    "quantity of no map": ({"melanin": MAP}, {"quantities": {"melani": "rgb"}}, "did you mean 'melanin'"),
    "quantities of faces": (faces(1), {"quantities": {"rgb": "rgb"}}, "with a mapping"),
    "too much": ({"melanin": np.broadcast_to(np.float32(0), (40_000, 64, 64))}, {}, "such as the first 2232"),
}
WRONG = {f"scrub, {case}": (widgets.scrub, *wrong) for case, wrong in NO_SAMPLES.items()}


def asked(widget, monkeypatch, **content):
    """What the widget answers to a question from the browser."""
    answers = []
    monkeypatch.setattr(widget, "send", lambda said, buffers=None: answers.append((said, buffers)))
    widget._handle_custom_msg({"id": "view-1", **content}, [])
    return answers[0]


EVERY_EDIT = dict(melanin=0.5, haemoglobin=0.5, specular=0, illuminant="A", camera=[1.0, -1.0], white_balance="new")


def test_the_editor_answers_with_the_picture_of_bioface_edit(monkeypatch):
    d = made_up(16, 18)
    widget = widgets.edit(d)
    said, [picture] = asked(widget, monkeypatch, **EVERY_EDIT)
    assert said == {"id": "view-1", "error": ""}
    shown = np.frombuffer(picture, np.uint8).reshape(16, 18, 3)
    assert np.abs(shown / 255 - decomposition.edit(d, **EVERY_EDIT)).max() <= 0.5 / 255 + 1e-6
    assert np.abs(np.frombuffer(widget.data, np.uint8).reshape(16, 18, 3) / 255 - decomposition.edit(d)).max() < 0.003
    said, pictures = asked(widget, monkeypatch, melanin=3)
    assert "within −2 and 2" in said["error"] and pictures == []
    for light in widgets.LIGHTS.values():  # every one that is offered can be had
        assert asked(widget, monkeypatch, illuminant=light)[0]["error"] == ""


def test_of_a_photo_some_pixels_of_the_face_and_its_surroundings_are_edited(monkeypatch):
    widget = widgets.edit(made_up(130, 260))
    assert widget.spec["size"] == [44, 87] and "every 3 × 3" in widget.spec["note"]
    _, [picture] = asked(widget, monkeypatch, melanin=0.1)
    assert len(picture) == len(widget.data) == 44 * 87 * 3
    assert 1000 / widget.spec["pause"] * len(picture) <= widgets.BYTES_A_SECOND + 1
    d = made_up(64, 100)
    d.mask[:] = False
    assert widgets.edit(d).spec["size"] == [64, 100]
    d.mask[20:40, 60:80] = True
    widget = widgets.edit(d)
    assert widget.spec["size"] == [30, 30] and "photo of 64 × 100 pixels" in widget.spec["note"]
    shown = np.frombuffer(widget.data, np.uint8).reshape(30, 30, 3)
    assert np.abs(shown / 255 - decomposition.edit(d)[15:45, 55:85]).max() < 0.003


def png(pixels):
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def upload(widget, name, content):
    """What the browser sends, and the sentence that is then under the button."""
    about = {"name": name, "type": "image/png", "size": len(content), "last_modified": datetime.datetime.now()}
    widget.photo.value = [{**about, "content": memoryview(content)}]
    return widget.children[1].spec["text"]


@pytest.mark.slow
def test_a_photo_of_ones_own_is_taken_apart_and_one_without_a_face_refused():
    widget = widgets.edit()
    assert widget.children[0] is widget.photo and widget.children[1].spec["kind"] == "nothing"
    assert "run this cell to use it" in repr(widget) and len(repr(widget)) < 110  # where ipywidgets cuts
    wall = png(np.full((64, 64, 3), 120, np.uint8))
    assert upload(widget, "wall.png", wall) == "wall.png: expected a photo with a face, found none for certain"
    assert len(widget.children) == 2
    face = np.full((200, 250, 3), 90, np.uint8)
    face[40:152, 60:172] = skimage.data.astronaut()[64:176, 166:278]
    assert upload(widget, "我.png", png(face)) == "我.png, 200 × 250 pixels."
    editor = widget.children[2]
    assert isinstance(editor, widgets.Editor) and max(editor.spec["size"]) < 160
    for name, content, message in (
        ("cut.png", png(face)[:9000], "cut.png: expected a picture (JPEG, PNG, TIFF, …), found something unreadable"),
        ("text.jpg", b"no photo", "text.jpg: expected a picture"),
        ("me.NEF", b"II*\0 raw", "me.NEF: expected a developed photo"),
        ("tiny.png", png(face[:9, :9]), "tiny.png: expected a photo of at least 16 pixels a side, found 9 × 9"),
    ):
        assert upload(widget, name, content).startswith(message)
        assert widget.children[2:] == (editor,)  # nothing is lost


def history(steps, rate=0.1):
    k = np.arange(float(steps))
    terms = {name: np.exp(-rate * k) if name != "truth" else 0 * k for name in LOSSES}
    return History(terms, k + 1, 0 * k + 1e-3)


def test_trainings_arrive_curve_by_curve():
    run = SimpleNamespace(history=history(5))
    widget = widgets.compare({"two": [run, history(3)], "one": history(4)})
    assert [run["name"] for run in widget.spec["runs"]] == ["two", "one"]
    curves = widget.spec["curves"]
    assert curves[0] == "sum of the losses" and "truth loss" not in curves  # it was not used
    for run, steps in zip(widget.spec["runs"], ([5, 3], [4]), strict=True):
        assert [seed["steps"] for seed in run["seeds"]] == steps
        for seed, n in zip(run["seeds"], steps, strict=True):
            sent = np.frombuffer(widget.data, "<f4", len(curves) * n, seed["values"]).reshape(-1, n)
            assert np.allclose(sent[0], history(n).total)
            assert np.allclose(sent[curves.index("gradient norm")], np.arange(n) + 1)


SCRUB, EDIT, COMPARE = "No sample to show.", "No photo to edit.", "No training to compare."
NOTHING = [(widgets.scrub, given, SCRUB) for given in ({}, {"melanin": np.ones((0, 4, 4))}, faces(0))]
NOTHING += [(widgets.edit, made_up(0, 8, 9), EDIT)]
NOTHING += [(widgets.compare, given, COMPARE) for given in ({}, {"a": []}, {"a": history(0)})]


@pytest.mark.parametrize(("make", "given", "words"), NOTHING, ids=lambda _: "nothing")
def test_nothing_is_said_in_words(make, given, words):
    assert make(given).spec == {"kind": "nothing", "text": words} and repr(make(given)) == words


WRONG |= {
    "edit, a batch": (widgets.edit, made_up(2, 8, 9), {}, r"found maps of \(2, 8, 9\): choose one"),
    "edit, a photo": (widgets.edit, np.ones((8, 8, 3)), {}, "expected the Decomposition of a photo, found ndarray"),
    "compare, a list": (widgets.compare, [history(2)], {}, "expected runs by name, .* found list"),
    "compare, a number": (widgets.compare, {"a": 3}, {}, "a: expected a History.* found int"),
    "compare, text": (widgets.compare, {"a": "abc"}, {}, "a: expected a History.* found str"),
    "compare, one number": (widgets.compare, {"a": [history(2), 3]}, {}, "a: expected a History.* found int"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_sample_no_photo_or_no_training_is_refused(case):
    make, given, options, message = WRONG[case]
    refuses(message, make, given, **options)


def test_a_committed_notebook_keeps_the_words_and_no_state(tmp_path):
    widget = widgets.compare({"a": history(3)})
    data, metadata = widget._repr_mimebundle_()
    assert notebook.WIDGET in data
    output = new_output("execute_result", data, metadata=metadata, execution_count=1)
    cell = new_code_cell("widget", outputs=[output], execution_count=1)
    state = {"widgets": {"application/vnd.jupyter.widget-state+json": {"state": {widget.model_id: {}}}}}
    nbformat.write(new_notebook(cells=[cell], metadata=state), tmp_path / "n.ipynb")
    cleaned = json.loads(notebook.clean(tmp_path / "n.ipynb"))
    assert cleaned["cells"][0]["outputs"][0]["data"] == {"text/plain": [repr(widget)]}
    assert "widgets" not in cleaned["metadata"] and "run this cell to use it" in repr(widget)


def test_the_browser_gets_files_that_load_nothing_else():
    widget = widgets.compare({"a": history(3)})
    code = str(widget._esm)
    assert "export default" in code and not re.search(r"\b(import|fetch|eval|XMLHttpRequest|Function)\b *\(", code)
    assert "http" not in code and "url(" not in str(widget._css)
