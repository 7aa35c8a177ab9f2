"""The REST API as an outsider uses it: urllib and JSON."""
import json
import time
import urllib.error
import urllib.parse
import urllib.request

FINAL = ("completed", "finalized", "failed", "cancelled", "rolled_back")


class ApiError(Exception):
    """An answer that is not 2xx; status 0 when there was no answer at all."""

    def __init__(self, status, body, what):
        error = body.get("error", {}) if isinstance(body, dict) else {}
        self.status = status
        self.code = error.get("code")
        self.details = error.get("details") or {}
        self.body = body
        super().__init__(f"{what}: {status} {self.code or ''}: {error.get('message', body)} {self.details or ''}")


class Api:
    """One gateway."""

    def __init__(self, base, timeout=15.0):
        self.base = base.rstrip("/")
        self.timeout = timeout

    def raw(self, method, path, data=None, headers=None, timeout=None):
        """(status, headers, bytes); a refused or broken connection raises OSError."""
        request = urllib.request.Request(self.base + path, data=data, method=method, headers=headers or {})
        try:
            with urllib.request.urlopen(request, timeout=timeout or self.timeout) as r:
                return r.status, r.headers, r.read()
        except urllib.error.HTTPError as e:
            return e.code, e.headers, e.read()

    def call(self, method, path, body=None, headers=None, timeout=None):
        """The decoded answer of a 2xx; ApiError otherwise."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **(headers or {})} if data is not None else headers
        try:
            status, _, text = self.raw(method, path, data, headers, timeout)
        except OSError as e:
            raise ApiError(0, {}, f"{method} {path}: {e}") from e
        try:
            answer = json.loads(text) if text else {}
        except ValueError:
            answer = text.decode("utf-8", "replace")
        if not 200 <= status < 300:
            raise ApiError(status, answer, f"{method} {path}")
        return answer

    def get(self, path, **kwargs):
        return self.call("GET", path, **kwargs)

    def post(self, path, body=None, **kwargs):
        return self.call("POST", path, {} if body is None else body, **kwargs)

    def delete(self, path, **kwargs):
        return self.call("DELETE", path, **kwargs)

    def retrying(self, method, path, body=None, headers=None, seconds=30.0):
        """call() again while the answer is 503, 504 or none: the service that is needed is being replaced."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return self.call(method, path, body, headers)
            except ApiError as e:
                if e.status not in (0, 502, 503, 504) or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    # -- the product's own words --------------------------------------------------------------------------------------

    def job(self, job_id, seconds=30.0):
        return self.retrying("GET", f"/api/v1/reshard/jobs/{job_id}", seconds=seconds)

    def split(self, source, targets, key=None, dry_run=False):
        headers = {"Idempotency-Key": key} if key else None
        path = "/api/v1/reshard/split" + ("?dry_run=true" if dry_run else "")
        return self.post(path, {"source_shard_id": source, "target_shards": targets}, headers=headers, timeout=60)

    def wait_job(self, job_id, states, seconds=120.0, seen=None, poll=0.1):
        """Polls until the job is in one of `states`; any other final state is an AssertionError with the job's own error.
        seen(job) is called at each poll."""
        states = (states,) if isinstance(states, str) else tuple(states)
        deadline = time.monotonic() + seconds
        while True:
            job = self.job(job_id)
            if seen:
                seen(job)
            if job["state"] in states:
                return job
            if job["state"] in FINAL and not (job["state"] == "completed" and "finalized" in states):
                raise AssertionError(f"job {job_id} ended as {job['state']}, not {states}: {job.get('error')} "
                                     f"{job.get('findings')}")
            if time.monotonic() > deadline:
                raise AssertionError(f"job {job_id} is {job['state']} (step {job.get('step')}) after {seconds:g} s, "
                                     f"not {states}: {job.get('error')}")
            time.sleep(poll)

    def ring_version(self, keyspace="default"):
        return self.retrying("GET", f"/api/v1/keyspaces/{keyspace}/ring")["ring_version"]

    def check(self, keyspace="default"):
        return self.post(f"/api/v1/keyspaces/{keyspace}/check", timeout=120)
