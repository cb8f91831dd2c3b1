"""The child that looks at a model from outside: `python -m edged.retrain.prove OPTIONS` (see `bring`).

The file comes on stdin; on stdout one line of JSON (`Proven` or {"refused": sentence}) and behind it the model's bytes.
Shut in like the scrub child before the first byte is parsed: no network, no other program, no file written, limited
memory and CPU time. It runs with the camera's instruction set (device.SSE42 in its environment).

What comes out takes RGB 0..255 as `image` float32 [n, 3, px, px] and gives `logits` [n, classes] in the wanted order,
whatever the file took and gave; a file that is so already is left as it is, byte for byte.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from edged.errors import Refused

CPU_SECONDS = 240
APART = 0.05  # of the largest logit: what runtimes may differ by (int8 without VNNI)
SMALL = 1e-7  # under it a probability counts as this


class Options(Struct, frozen=True, forbid_unknown_fields=True):
    """What its owner says of the file. () and 0: the file says it, or nothing is to be done."""

    classes: tuple[str, ...]  # of its outputs, in order; () = as its metadata says
    wanted: tuple[str, ...]  # the outputs that are wanted, in order; () = as they are
    px: int = 0
    scale: float = 0  # what 255 must become is 255 / scale: 255 for a file that takes 0..1
    mean: tuple[float, ...] = ()  # subtracted after the scale, for R, G, B
    std: tuple[float, ...] = ()  # divided by after that
    memory_bytes: int = 0
    drop_weights: bool = False  # it names weights that are not brought with it
    unnamed: bool = False  # a file that names no classes is taken too, of as many as it answers


class Proven(Struct, frozen=True):
    """What was found. `changes` and `notes` are sentences."""

    px: int
    classes: tuple[str, ...]
    changes: tuple[str, ...]
    notes: tuple[str, ...]
    weights: str  # sha256 of the weights it names, "" = none
    architecture: str  # "" = not said
    cpu_ms: float  # of one picture, on one core here, with the camera's instruction set where the runtime obeys
    runtime: str
    method: str = ""  # how it is compressed already: "int8" | ""


def main(argv: list[str]) -> int:
    options = msgspec.json.decode(argv[0], type=Options)
    data = sys.stdin.buffer.read()
    from edged.privacy import confine

    confine.shut_in(options.memory_bytes)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    try:
        proven, made = prove(data, options)
    except Refused as e:
        sys.stdout.buffer.write(json.dumps({"refused": str(e), "code": e.code}).encode() + b"\n")
        return 0
    sys.stdout.buffer.write(msgspec.json.encode(proven) + b"\n" + made)
    return 0


def prove(data: bytes, options: Options) -> tuple[Proven, bytes]:
    """Raises Refused with what is wrong."""
    from edged.engine import onnx_file
    from edged.retrain import intake, source
    from edged.retrain.rewrite import kernels

    facts = onnx_file.check(data)
    model = source.parse(data)
    if facts.takes == "uint8" and source.metadata(data).get(intake.INPUT) != intake.BGR:
        raise Refused("its input is uint8, not float32 [n, 3, height, width]", code="bad_model")
    if foreign := sorted(_domains(model) - {"", "ai.onnx"}):
        said = ", ".join(plain if len(plain := ascii(d)[1:-1]) <= 40 else plain[:37] + "..." for d in foreign[:4])
        more = f" and {len(foreign) - 4} more" if len(foreign) > 4 else ""
        raise Refused(f"it uses operators beyond ONNX's own ({said}{more})", code="bad_model")
    _sound(model)
    own = _classes(model, options)
    px, changes = _adapt(model, facts.input_name, options, own)
    if options.drop_weights and source.metadata(data).get(source.WEIGHTS):
        changes.append("it no longer names the weights that were not brought with it")
    made = bytes(model.SerializeToString(deterministic=True)) if changes else data
    likely = _run(made, px, len(own))
    if likely.probabilities:
        _to_logits(model)
        changes.append("its probabilities are turned back into logits")
    order = _reorder(model, own, options.wanted)
    if order:
        changes.append(f"its outputs are put into the order {', '.join(options.wanted)}")
    classes = options.wanted or own
    if changes:
        made = _finish(model, classes, options)
    found = _run(made, px, len(classes))
    named = source.metadata(made)
    return Proven(
        px=px,
        classes=classes,
        changes=tuple(changes),
        notes=tuple(found.notes + kernels.check(made)),
        weights=named.get(source.WEIGHTS, ""),
        architecture=named.get("edged.arch", ""),
        cpu_ms=round(found.cpu_ms, 2),
        runtime=found.runtime,
        method="int8" if any(node.op_type == "DequantizeLinear" for node in model.graph.node) else "",
    ), made


def _domains(model: Any) -> set[str]:
    """Of the operators that it uses, in nested graphs and functions too. Tools declare more than they use: onnxruntime's
    quantiser all that it knows.
    """

    def walk(nodes: Any) -> Iterator[str]:
        for node in nodes:
            yield node.domain
            for attribute in node.attribute:
                for inner in (attribute.g, *attribute.graphs):
                    yield from walk(inner.node)

    return {domain for nodes in (model.graph.node, *(f.node for f in model.functions)) for domain in walk(nodes)}


def _sound(model: Any) -> None:
    """ONNX's own checker, and no weight that is no number."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as e:  # ValidationError, InferenceError, RuntimeError: all of them mean that the file is no good
        raise Refused(f"ONNX's checker refuses it: {str(e).splitlines()[0][:200]}", code="bad_model") from e
    constants = [a.t for node in model.graph.node for a in node.attribute if a.HasField("t")]
    for tensor in (*model.graph.initializer, *constants):
        values = numpy_helper.to_array(tensor)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise Refused(f"weights {tensor.name[:60]!r} hold numbers that are none", code="bad_model")


def _classes(model: Any, options: Options) -> tuple[str, ...]:
    """The names of its outputs: as its owner says, else as it says itself."""
    named = {p.key: p.value for p in model.metadata_props}
    try:
        own = tuple(str(c) for c in json.loads(named.get("edged.classes", "[]")))
    except (ValueError, TypeError):
        own = ()
    own = options.classes or own
    if not own and options.unnamed:
        return ()
    if len(own) < 2 or len(set(own)) != len(own):
        raise Refused(
            "it does not say which classes it knows: name them in the order of its outputs", code="no_classes"
        )
    missing = [c for c in options.wanted if c not in own]
    if missing:
        raise Refused(f"it does not know {', '.join(missing)}; it knows {', '.join(own)[:200]}", code="other_classes")
    return own


def _adapt(model: Any, name: str, options: Options, own: tuple[str, ...]) -> tuple[int, list[str]]:
    """Input and output as everywhere here; returns the side of the input and what was changed."""
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    graph = model.graph
    entry = next(i for i in graph.input if i.name == name)
    if entry.type.tensor_type.elem_type == onnx.TensorProto.UINT8:
        return _prepared(model, entry, options), []
    dims = entry.type.tensor_type.shape.dim
    sides = [d.dim_value for d in dims]
    if len(sides) != 4:
        raise Refused(f"its input has {len(sides)} dimensions, not [n, 3, height, width]", code="bad_model")
    if sides[3] == 3 and sides[1] != 3:
        raise Refused("its input is [n, height, width, 3]; [n, 3, height, width] is needed", code="bad_model")
    if sides[1] not in (0, 3):
        raise Refused(f"its input has {sides[1]} channels, not 3", code="bad_model")
    fixed = {s for s in sides[2:] if s}
    if len(fixed) > 1 or (fixed and options.px not in (0, *fixed)):
        raise Refused(f"its input is {sides[2]} x {sides[3]} pixels, not a square of {options.px or 'one'} side",
                      code="bad_model")  # fmt: skip
    px = options.px or next(iter(fixed), 0)
    if not px:
        raise Refused("it takes pictures of any size: say which with --px", code="bad_model")
    if not 8 <= px <= 512:
        raise Refused(f"its input has {px} pixels a side; 8 to 512 are taken", code="bad_model")
    changes = []
    if [d.dim_value for d in dims] != [0, 3, px, px]:
        dims[0].Clear()
        dims[0].dim_param = "n"
        for d, n in zip(dims[1:], (3, px, px), strict=True):
            d.dim_value = n
        changes.append(f"its input is written as [n, 3, {px}, {px}]")
        del graph.value_info[:]
    nodes = []
    inner = name
    if options.scale or options.mean or options.std:
        scale = np.full(3, options.scale or 1.0) * np.array(options.std or (1.0, 1.0, 1.0))
        mean = np.array(options.mean or (0.0, 0.0, 0.0)) / np.array(options.std or (1.0, 1.0, 1.0))
        if not (np.isfinite(scale).all() and np.isfinite(mean).all() and (scale != 0).all()):
            raise Refused("its scale, mean and std make no sense", code="bad_options")
        for key, value in (("edged_gain", 1 / scale), ("edged_mean", mean)):
            graph.initializer.append(numpy_helper.from_array(value.astype(np.float32).reshape(1, 3, 1, 1), key))
        inner = "edged_prepared"
        nodes += [
            helper.make_node("Mul", ["image", "edged_gain"], ["edged_scaled"]),
            helper.make_node("Sub", ["edged_scaled", "edged_mean"], [inner]),
        ]
        changes.append("its scaling of the picture is inside the file now")
    output = graph.output[0]
    if len(graph.output) != 1:
        raise Refused(f"it has {len(graph.output)} outputs; one, of the classes, is needed", code="bad_model")
    _rename(graph, {name: inner if nodes else "image", output.name: "logits"}, {"image", "logits"})
    if name != "image":
        changes.append(f"its input {name[:40]!r} is called image")
    if output.name != "logits":
        changes.append(f"its output {output.name[:40]!r} is called logits")
        output.name = "logits"
    entry.name = "image"
    for node in reversed(nodes):
        graph.node.insert(0, node)
    known = [d.dim_value for d in output.type.tensor_type.shape.dim]
    if len(known) == 4 and known[2:] == [1, 1]:
        _behind(graph, "Flatten", axis=1)
        changes.append("its output is flattened")
    if changes:
        output.type.tensor_type.ClearField("shape")
        for value in ("n", len(own) or "classes"):
            dim = output.type.tensor_type.shape.dim.add()
            if isinstance(value, str):
                dim.dim_param = value
            else:
                dim.dim_value = value
    return px, changes


def _rename(graph: Any, new: dict[str, str], taken: set[str]) -> None:
    """Tensors by other names, in nested graphs too; what has such a name already gets a line behind it."""
    names = {**{t: f"{t}_" for t in taken if t not in new}, **new}

    def walk(part: Any) -> None:
        for node in part.node:
            for listed in (node.input, node.output):
                for i, value in enumerate(listed):
                    listed[i] = names.get(value, value)
            for attribute in node.attribute:
                for inner in (attribute.g, *attribute.graphs):
                    walk(inner)
        for tensor in part.initializer:
            tensor.name = names.get(tensor.name, tensor.name)
        for value in part.value_info:
            value.name = names.get(value.name, value.name)

    walk(graph)


def _prepared(model: Any, entry: Any, options: Options) -> int:
    """The side of a file made here, which prepares the picture itself (intake.py)."""
    sides = [d.dim_value for d in entry.type.tensor_type.shape.dim]
    if entry.name != "image" or len(sides) != 4 or sides[3] != 3 or sides[1] != sides[2] or not 8 <= sides[1] <= 512:
        raise Refused(f"its input is uint8 {sides}, not [n, px, px, 3]", code="bad_model")
    if options.scale or options.mean or options.std or options.px not in (0, sides[1]):
        raise Refused("it prepares the picture itself: say nothing of size, scale, mean and std", code="bad_options")
    return int(sides[1])


def _behind(graph: Any, op: str, inputs: tuple[str, ...] = (), **attributes: Any) -> None:
    """One more node behind the output, which keeps its name."""
    from onnx import helper

    number = len(graph.node)
    before = f"edged_before_{number}"
    for node in graph.node:
        for i, value in enumerate(node.output):
            if value == "logits":
                node.output[i] = before
        for i, value in enumerate(node.input):
            if value == "logits":
                node.input[i] = before
    graph.node.append(helper.make_node(op, [before, *inputs], ["logits"], **attributes))


def _to_logits(model: Any) -> None:
    """The softmax at its end goes; where there is another end, the logarithm undoes it."""
    import numpy as np
    from onnx import numpy_helper

    graph = model.graph
    last = next(node for node in graph.node if "logits" in node.output)
    if last.op_type == "Softmax":
        before = last.input[0]
        graph.node.remove(last)
        for node in graph.node:
            for i, value in enumerate(node.output):
                if value == before:
                    node.output[i] = "logits"
            for i, value in enumerate(node.input):
                if value == before:
                    node.input[i] = "logits"
        return
    graph.initializer.append(numpy_helper.from_array(np.array(SMALL, np.float32), "edged_small"))
    _behind(graph, "Max", ("edged_small",))
    _behind(graph, "Log")


def _reorder(model: Any, own: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    import numpy as np
    from onnx import numpy_helper

    if not wanted or wanted == own:
        return False
    order = np.array([own.index(c) for c in wanted], np.int64)
    model.graph.initializer.append(numpy_helper.from_array(order, "edged_order"))
    _behind(model.graph, "Gather", ("edged_order",), axis=1)
    shape = model.graph.output[0].type.tensor_type.shape
    if len(shape.dim) == 2:
        shape.dim[1].dim_value = len(wanted)
    return True


def _finish(model: Any, classes: tuple[str, ...], options: Options) -> bytes:
    """Metadata and the checker once more: what was changed must be a model still."""
    import onnx

    kept = {p.key: p.value for p in model.metadata_props if p.key.startswith("edged.")}
    kept["edged.classes"] = json.dumps(classes)
    if options.drop_weights:
        kept.pop("edged.weights", None)
    del model.metadata_props[:]
    for key in sorted(kept):
        model.metadata_props.add(key=key, value=kept[key])
    del model.graph.value_info[:]
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as e:
        raise Refused(f"it could not be adapted: {str(e).splitlines()[0][:200]}", code="bad_model") from e
    return bytes(model.SerializeToString(deterministic=True))


class _Ran(Struct):
    probabilities: bool
    notes: list[str]
    cpu_ms: float
    runtime: str


def _run(data: bytes, px: int, classes: int) -> _Ran:
    """What it answers to three pictures under each runtime, together and one by one."""
    import numpy as np

    from edged import engine
    from edged.clock import cpu_seconds
    from edged.engine import patterns, preprocess

    batch = preprocess.marshal(preprocess.to_float([patterns.picture(seed, px) for seed in range(3)], px))
    found = []
    cpu_ms, first = 0.0, ""
    for runtime in engine.runtimes():
        loaded = engine.load(data, runtime=runtime)
        try:
            together = loaded.run(batch)[0]
            began = cpu_seconds()
            alone = np.concatenate([loaded.run(batch[i : i + 1])[0].reshape(1, -1) for i in range(len(batch))])
        except Refused as e:
            raise Refused(f"it does not run on three pictures at once or on one: {e}", code="bad_model") from e
        if not first:
            first, cpu_ms = runtime, 1000 * (cpu_seconds() - began) / len(batch)
        if together.shape != (len(batch), classes or together.size // len(batch)):
            raise Refused(
                f"it answers {list(together.shape)} to {len(batch)} pictures; "
                + (f"{classes} classes were named" if classes else "a number for each class is needed"),
                code="bad_model",
            )
        if not np.isfinite(together).all():
            raise Refused("its answers are no numbers", code="bad_model")
        if np.abs(together - alone).max() > APART * max(1.0, np.abs(together).max()):
            raise Refused("it answers a picture differently among others than alone", code="bad_model")
        found.append(together)
    if any(np.abs(other - found[0]).max() > APART * max(1.0, float(np.abs(found[0]).max())) for other in found):
        raise Refused("the runtimes here do not agree on its answers", code="bad_model")
    answers = found[0]
    notes = []
    if np.abs(answers - answers[0]).max() <= 1e-6 * max(1.0, float(np.abs(answers).max())):
        notes.append("it answered three very different pictures alike: is its scaling right (--scale, --mean, --std)?")
    likely = bool((answers >= 0).all() and (answers <= 1).all() and np.abs(answers.sum(1) - 1).max() < 1e-3)
    return _Ran(likely, notes, cpu_ms, first)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
