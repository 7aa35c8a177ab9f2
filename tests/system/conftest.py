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
    """The stack, with everything running. After a failure its logs are kept and it is thrown away."""
    try:
        session_rig.ensure()
    except BaseException:
        if session_rig.stack is not None and session_rig.stack.record is not None:
            session_rig.drop()
        session_rig.stack = None
        raise
    yield session_rig
    failed = getattr(request.node, "failed_call", True)
    reports = session_rig.sanitizer_reports()
    if failed or reports:
        print(f"logs kept in {session_rig.keep_logs(request.node.name)}")
        session_rig.drop()
    else:
        session_rig.restore()
    assert not reports, "\n".join(reports)


@pytest.fixture
def cell(rig):
    """A keyspace with the shop in shard a."""
    made = rig.cell()
    yield made
    made.close()
