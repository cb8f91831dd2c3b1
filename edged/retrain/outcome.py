"""What `edged train` leaves: the model, its weights, facts.json, a plot; and what it has to say against them. Light."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

import msgspec

import edged
from edged import durable
from edged.clock import iso
from edged.retrain import plot
from edged.retrain.order import FILES, Order

_LIBRARIES = ("torch", "numpy", "onnx", "safetensors", "opencv-python-headless", "openvino", "onnxruntime")


def facts(order: Order, result: dict[str, Any], now: float) -> dict[str, Any]:
    """facts.json: the result, what it was made from and with. `now` in seconds since 1970."""
    job = msgspec.to_builtins(order.job)
    test = result.get("test")
    found = {
        **result,
        "classes": job["classes"],
        "arch": job["arch"],
        "seed": job["seed"],
        "data": {"sha256": job["data"], "folder": job["folder"], "test": job["test"], "pictures": order.counts},
        "settings": {
            k: v for k, v in job.items() if k not in ("data_dir", "folder", "test", "data", "key_file", "snapshot")
        },
        "versions": versions(),
        "finished": iso(now),
        "warnings": warnings(order, result),
    }
    if test:
        found |= {
            "test_accuracy": test["accuracy"], "test_error": test["error"], "test_samples": test["n"],
            "test_accuracy_95": [test["lower"], test["upper"]], "test_error_95": [1 - test["upper"], 1 - test["lower"]],
        }  # fmt: skip
    return found


def versions() -> dict[str, str]:
    """Of what had a hand in it."""
    found = {"edged": edged.__version__, "python": platform.python_version(), "machine": platform.machine()}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def warnings(order: Order, result: dict[str, Any]) -> list[dict[str, str]]:
    """`code` and `text` of what speaks against the model or its figures."""
    found = []
    judged = result.get("test") or result["tune"]
    if judged["lower"] <= judged["guessing"]:
        found.append({
            "code": "no_better_than_guessing",
            "text": f"{judged['right']} of {judged['n']} right may be as low as {judged['lower']:.1%} (95 % sure), and naming"
            f" the most frequent class always has {judged['guessing']:.1%}: the model is not shown to be better than"
            " guessing. Are the labels right? Are there enough pictures?",
        })  # fmt: skip
    if result["skipped"]:
        names, n = result["skipped_names"], result["skipped"]
        more = f" and {n - len(names)} more" if n > len(names) else ""
        found.append({
            "code": "unreadable", "text": f"{n} pictures could not be read and were left out: {', '.join(names)}{more}",
        })  # fmt: skip
    if order.overlap:
        found.append({
            "code": "test_in_train",
            "text": f"{order.overlap} test pictures are byte for byte in the training data: the test flatters",
        })  # fmt: skip
    if result["stopped"] and "minutes" in result["stopped"]:
        found.append({
            "code": "out_of_time", "text": f"training ended early: {result['stopped']} (--minutes)",
        })  # fmt: skip
    return found


def write(order: Order, found: dict[str, Any]) -> None:
    """The files in OUT, facts.json last. Raises OSError."""
    for key, suffix in FILES.items():
        data = (order.out / "models" / f"{found[key]}{suffix}").read_bytes()
        durable.write(order.out / f"model{suffix}", data)
    title = f"{found['arch']['name']}, {found['arch']['input_px']} px"
    svg = plot.curve(title, sentence(found), found["curve"], found["kept_epoch"])
    durable.write(order.out / "curve.svg", svg.encode())
    durable.write(order.out / "facts.json", msgspec.json.format(msgspec.json.encode(found, order="sorted")))


def sentence(found: dict[str, Any]) -> str:
    """Accuracy in one line."""
    if test := found.get("test"):
        return (
            f"test error {test['error']:.2%} ({test['n'] - test['right']} of {test['n']}, 95 % sure:"
            f" {1 - test['upper']:.2%} to {1 - test['lower']:.2%}), accuracy {test['accuracy']:.2%}"
        )
    tune = found["tune"]
    return (
        f"accuracy {tune['accuracy']:.1%} ({tune['right']} of {tune['n']} pictures kept for tuning, 95 % sure:"
        f" {tune['lower']:.1%} to {tune['upper']:.1%})"
    )
