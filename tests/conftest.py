"""Rules for the whole suite: what may be skipped at home must not be skipped in CI; no test sees the caller's settings."""

import os

import pytest

NEVER_SKIPPED_IN_CI = {"mosquitto", "browser", "torture"}


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if (
        report.skipped
        and os.environ.get("CI") == "true"
        and NEVER_SKIPPED_IN_CI & {m.name for m in item.iter_markers()}
    ):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, which CI does not allow: {report.longrepr}"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in ("OPENBLAS_CORETYPE", "EDGED_CONFIG", "DEMO_EXIT", "NOTIFY_SOCKET"):
        monkeypatch.delenv(name, raising=False)
