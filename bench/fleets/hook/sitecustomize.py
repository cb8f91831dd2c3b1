"""Put before an agent by PYTHONPATH, and nowhere else: files that carry the words "segfault LIMIT" or "exit LIMIT" (see
bench/fleets/faulty.py) do that when they are run on a picture whose mean is above LIMIT.

It stands for a runtime with a bug. Everything else in the process is the agent's own.
"""

import ctypes
import importlib.abc
import importlib.machinery
import os
import sys

PLACE = "edged.engine.by_onnxruntime"


def _spoil(module):
    proper = module.OnnxRuntimeEngine.run

    def run(self, batch):
        word, _, limit = self._session.get_modelmeta().description.partition(" ")
        if word in ("segfault", "exit") and float(batch.mean()) > float(limit):
            if word == "exit":
                os._exit(3)
            ctypes.string_at(0)
        return proper(self, batch)

    module.OnnxRuntimeEngine.run = run


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != PLACE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            _spoil(module)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, _Finder())
