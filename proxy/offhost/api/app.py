"""The application: every path and what it answers.

GET    /healthz                   the process is there and its loop turns
GET    /metrics                   Prometheus' text format
GET    /api/v1/status             version, since when, what is under way
GET    /api/v1/jobs               each job with its last run and its next time
GET    /api/v1/jobs/{name}/plan   what a run would do now, VM by VM, and why; touches nothing
POST   /api/v1/jobs/{name}/run    begin a run: 202 with its id
GET    /api/v1/runs               ?limit=50&job=NAME, the newest first
GET    /api/v1/runs/{id}          one run with its VMs and their disks; a unique prefix of the id will do
DELETE /api/v1/runs/{id}          cancel it: 202, it ends at its next safe point
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from typing import Any

from aiohttp import web

from offhost.aio import in_thread
from offhost.api.guard import guard
from offhost.api.problems import problems
from offhost.catalog import Catalog
from offhost.clock import Clock, rfc3339
from offhost.errors import Conflict, UsageError
from offhost.jobs.dispatch import Dispatcher
from offhost.jobs.schedule import next_time
from offhost.jobs.spec import JobSpec
from offhost.retention import written_age

MAX_BODY_BYTES = 64 * 1024
MAX_RUNS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What the API shows and moves."""

    dispatcher: Dispatcher
    catalog: Catalog
    metrics: Callable[[], bytes]
    metrics_content_type: str
    clock: Clock
    version: str
    started: datetime


def application(served: Served) -> web.Application:
    """The API over `served`, ready to be served or tested."""
    app = web.Application(middlewares=[problems, guard], client_max_size=MAX_BODY_BYTES)
    handlers = _Handlers(served)
    app.add_routes(
        [
            web.get("/healthz", handlers.healthz),
            web.get("/metrics", handlers.metrics),
            web.get("/api/v1/status", handlers.status),
            web.get("/api/v1/jobs", handlers.jobs),
            web.get("/api/v1/jobs/{name}/plan", handlers.plan_job),
            web.post("/api/v1/jobs/{name}/run", handlers.run_job),
            web.get("/api/v1/runs", handlers.runs),
            web.get("/api/v1/runs/{id}", handlers.run),
            web.delete("/api/v1/runs/{id}", handlers.cancel_run),
        ]
    )
    app.on_response_prepare.append(_plain_headers)
    return app


async def _plain_headers(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "offhost"
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"


class _Handlers:
    def __init__(self, served: Served) -> None:
        self._served = served

    async def healthz(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def metrics(self, _request: web.Request) -> web.Response:
        exposition = self._served.metrics()
        return web.Response(body=exposition, headers={"Content-Type": self._served.metrics_content_type})

    async def status(self, _request: web.Request) -> web.Response:
        dispatcher = self._served.dispatcher
        return web.json_response(
            {
                "version": self._served.version,
                "started": rfc3339(self._served.started),
                "jobs": len(dispatcher.jobs),
                "runs_under_way": [{"id": run_id, "job": job} for run_id, job in dispatcher.under_way().items()],
            }
        )

    async def jobs(self, _request: web.Request) -> web.Response:
        described = [await self._job(job) for job in self._served.dispatcher.jobs.values()]
        return web.json_response({"jobs": described})

    async def plan_job(self, request: web.Request) -> web.Response:
        dispatcher = self._served.dispatcher
        plan = await dispatcher.runner.plan(dispatcher.job(request.match_info["name"]))
        return web.json_response(asdict(plan))

    async def run_job(self, request: web.Request) -> web.Response:
        _refuse_parameters(await request.read())
        run_id = await self._served.dispatcher.start(request.match_info["name"], "rest")
        location = {"Location": f"/api/v1/runs/{run_id}"}
        return web.json_response({"run": run_id}, status=202, headers=location)

    async def runs(self, request: web.Request) -> web.Response:
        limit = request.query.get("limit", "50")
        # The length first: Python itself refuses to read numbers of thousands of digits.
        if not (len(limit) <= 5 and limit.isascii() and limit.isdigit() and 1 <= int(limit) <= MAX_RUNS):
            raise UsageError(f"limit: `{limit[:20]}` is not a number from 1 to {MAX_RUNS}")
        listed = partial(self._served.catalog.runs, limit=int(limit), job=request.query.get("job"))
        return web.json_response({"runs": [_without_vms(asdict(row)) for row in await in_thread(listed)]})

    async def run(self, request: web.Request) -> web.Response:
        row = await in_thread(self._served.catalog.run, request.match_info["id"])
        return web.json_response(asdict(row))

    async def cancel_run(self, request: web.Request) -> web.Response:
        row = await in_thread(self._served.catalog.run, request.match_info["id"])
        if row.state != "running":
            raise Conflict(f"run {row.id} has ended already: {row.state}")
        self._served.dispatcher.cancel(row.id)
        return web.json_response({"run": row.id}, status=202)

    async def _job(self, job: JobSpec) -> dict[str, Any]:
        last = await in_thread(partial(self._served.catalog.runs, limit=1, job=job.name))
        following = next_time(job.timing, self._served.clock.now()) if job.timing else None
        return {
            "name": job.name,
            "vcenter": job.vcenter,
            "repository": job.repository,
            "mode": job.mode,
            "full_every": written_age(job.full_every) if job.full_every else None,
            "audit": {"every": written_age(job.audit.every), "read": job.audit.read},
            "transports": list(job.transports),
            "schedule": {"cron": job.timing.cron.text, "timezone": job.timing.timezone} if job.timing else None,
            "next": rfc3339(following) if following else None,
            "last": _without_vms(asdict(last[0])) if last else None,
        }


def _refuse_parameters(body: bytes) -> None:
    """The body is `{}` or nothing: a parameter that nobody reads must not seem to have been obeyed."""
    try:
        parameters = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise UsageError("the body is not JSON", hint="send {}") from None
    if parameters != {}:
        raise UsageError("a run takes no parameters", hint="send {}; what a run does is in the job's file")


def _without_vms(run: dict[str, Any]) -> dict[str, Any]:
    """A run in a list: without what may be long."""
    return {key: value for key, value in run.items() if key not in ("vms", "expired")}
