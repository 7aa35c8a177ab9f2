"""Fixtures of the system tests. They drive the real stack as an outsider would."""
import pytest

from harness.rig import Rig


@pytest.fixture(scope="session")
def session_rig():
    made = Rig()
    yield made
    made.drop()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if call.when == "call":
        item.failed_call = outcome.get_result().failed


@pytest.fixture
def rig(session_rig, request):
    """The stack, with everything running."""
    with session_rig.in_test(request) as ready:
        yield ready


@pytest.fixture
def cell(rig):
    """A keyspace with the shop in shard a."""
    made = rig.cell()
    yield made
    made.close()
