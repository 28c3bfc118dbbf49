"""What REST answers, and to whom."""

import asyncio
import json
from urllib.parse import urlsplit

import aiohttp
import pytest

from offhost.api import serving
from offhost.catalog import Catalog
from offhost.errors import Conflict
from support.small_engine import SmallEngine
from support.waiting import until

Browser = aiohttp.ClientSession


async def get(browser: Browser, path: str, status: int = 200) -> dict[str, object]:
    async with browser.get(path) as response:
        assert response.status == status
        found: dict[str, object] = json.loads(await response.text())
        return found


async def run(browser: Browser, job: str = "nightly") -> str:
    async with browser.post(f"/api/v1/jobs/{job}/run", json={}) as response:
        assert response.status == 202
        run_id: str = (await response.json())["run"]
        assert response.headers["Location"] == f"/api/v1/runs/{run_id}"
        return run_id


async def test_a_run_is_begun_followed_and_listed(browser: Browser, catalog: Catalog) -> None:
    run_id = await run(browser)
    await until(lambda: catalog.run(run_id).state != "running")
    shown = await get(browser, f"/api/v1/runs/{run_id}")
    assert (shown["state"], shown["job"], shown["trigger"]) == ("success", "nightly", "rest")
    assert isinstance(shown["vms"], list)
    assert [vm["disks"][0]["host_bytes"] for vm in shown["vms"]] == [0, 0]
    listed = await get(browser, "/api/v1/runs?limit=5&job=nightly")
    assert isinstance(listed["runs"], list)
    assert [one["id"] for one in listed["runs"]] == [run_id]
    assert await get(browser, "/api/v1/runs?job=other") == {"runs": []}


async def test_jobs_are_told_with_their_last_run_and_their_next_time(browser: Browser, catalog: Catalog) -> None:
    run_id = await run(browser)
    await until(lambda: catalog.run(run_id).state != "running")
    listed = await get(browser, "/api/v1/jobs")
    assert isinstance(listed["jobs"], list)
    jobs = {job["name"]: job for job in listed["jobs"]}
    assert jobs["nightly"]["last"]["id"] == run_id
    assert jobs["nightly"]["schedule"] == {"cron": "0 22 * * *", "timezone": "Europe/Zurich"}
    assert jobs["nightly"]["next"][10:] in ("T20:00:00Z", "T21:00:00Z")  # 22:00 in Zurich, in summer and in winter
    assert (jobs["by-hand"]["last"], jobs["by-hand"]["next"]) == (None, None)


async def test_status_tells_what_is_under_way(browser: Browser, engine: SmallEngine) -> None:
    engine.gate = asyncio.Event()
    run_id = await run(browser)
    status = await get(browser, "/api/v1/status")
    assert status == {
        "version": "0.1.0",
        "started": "2026-01-01T00:00:00Z",
        "jobs": 2,
        "runs_under_way": [{"id": run_id, "job": "nightly"}],
    }


async def test_a_job_that_is_running_is_not_begun_again(browser: Browser, engine: SmallEngine) -> None:
    engine.gate = asyncio.Event()
    run_id = await run(browser)
    async with browser.post("/api/v1/jobs/nightly/run", json={}) as response:
        problem = json.loads(await response.text())
        assert (response.status, response.content_type) == (409, "application/problem+json")
    assert problem["code"] == "conflict"
    assert run_id in problem["detail"]
    assert problem["hint"]


async def test_a_run_is_cancelled_and_its_clean_up_awaited(
    browser: Browser, engine: SmallEngine, catalog: Catalog
) -> None:
    engine.gate = asyncio.Event()
    run_id = await run(browser)
    await until(lambda: engine.under_way)
    async with browser.delete(f"/api/v1/runs/{run_id}") as response:
        assert response.status == 202
    await until(lambda: catalog.run(run_id).state == "cancelled")
    assert sorted(engine.cleaned_up) == ["web01", "web02"]
    async with browser.delete(f"/api/v1/runs/{run_id}") as response:
        assert response.status == 409


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/api/v1/runs/ffff", 404, "not_found"),
        ("/api/v1/runs?limit=0", 400, "usage"),
        ("/api/v1/runs?limit=1001", 400, "usage"),
        ("/api/v1/runs?limit=99999999999999999999", 400, "usage"),
        ("/api/v1/runs?limit=00999999999999", 400, "usage"),
        (f"/api/v1/runs?limit={'9' * 5000}", 400, "usage"),
        ("/api/v1/runs?limit=x", 400, "usage"),
        ("/nowhere", 404, "not_found"),
        ("/api/v1/jobs/nightly/run", 405, "method_not_allowed"),
    ],
)
async def test_what_cannot_be_answered_is_a_problem_with_a_code(
    browser: Browser, path: str, status: int, code: str
) -> None:
    assert (await get(browser, path, status))["code"] == code


async def test_a_plan_is_told_and_begins_nothing(browser: Browser, catalog: Catalog) -> None:
    plan = await get(browser, "/api/v1/jobs/nightly/plan")
    assert isinstance(plan["vms"], list)
    assert [vm["vm"] for vm in plan["vms"]] == ["web01", "web02"]
    assert (plan["job"], plan["left_out"], plan["warnings"]) == ("nightly", [], [])
    assert catalog.runs(limit=1) == []


async def test_an_unknown_job_is_a_problem_that_names_the_jobs_there_are(browser: Browser) -> None:
    async with browser.post("/api/v1/jobs/weekly/run", json={}) as response:
        assert response.status == 404
        assert json.loads(await response.text())["hint"] == "there are: by-hand, nightly"


@pytest.mark.parametrize("body", ["[", '{"mode": "full"}', "[]", "[" * 60_000])
async def test_a_body_that_nobody_would_obey_is_refused(browser: Browser, body: str, catalog: Catalog) -> None:
    headers = {"Content-Type": "application/json"}
    async with browser.post("/api/v1/jobs/nightly/run", data=body, headers=headers) as response:
        assert response.status == 400
    assert catalog.runs(limit=1) == []


async def test_a_body_that_is_too_large_is_refused(browser: Browser, catalog: Catalog) -> None:
    headers = {"Content-Type": "application/json"}
    async with browser.post("/api/v1/jobs/nightly/run", data=b" " * 70_000, headers=headers) as response:
        assert response.status == 413
    assert catalog.runs(limit=1) == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "application/json", "Origin": "https://evil.example"}, 403),
        ({"Content-Type": "application/json", "Origin": "null"}, 403),
        ({"Content-Type": "application/json", "Host": "evil.example"}, 421),
        ({"Content-Type": "application/json", "Host": "127.0.0.1.evil.example:8006"}, 421),
    ],
)
async def test_a_web_page_cannot_begin_a_run_through_a_browser(
    browser: Browser, catalog: Catalog, headers: dict[str, str], status: int
) -> None:
    async with browser.post("/api/v1/jobs/nightly/run", data="{}", headers=headers) as response:
        assert response.status == status
    assert catalog.runs(limit=1) == []


async def test_a_web_page_cannot_read_through_a_name_of_its_own_either(browser: Browser) -> None:
    async with browser.get("/api/v1/runs", headers={"Host": "rebound.example"}) as response:
        assert response.status == 421
    async with browser.delete("/api/v1/runs/ff", headers={"Origin": "https://evil.example"}) as response:
        assert response.status == 403


async def test_a_page_of_our_own_may(browser: Browser, url: str) -> None:
    async with browser.post("/api/v1/jobs/nightly/run", json={}, headers={"Origin": url}) as response:
        assert response.status == 202


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1", "127.9.9.9:1", "[::1]", "[::1]:8006"])
async def test_this_machine_may_be_called_by_any_of_its_loopback_names(browser: Browser, host: str) -> None:
    async with browser.get("/healthz", headers={"Host": host}) as response:
        assert response.status == 200


async def test_metrics_are_served_as_prometheus_reads_them(browser: Browser) -> None:
    async with browser.get("/metrics") as response:
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert await response.text() == "offhost_info 1\n"
        assert response.headers["Server"] == "offhost"


async def test_a_port_that_is_taken_is_told_in_words(url: str) -> None:
    with pytest.raises(Conflict, match="cannot listen on") as caught:
        async with serving(aiohttp.web.Application(), "127.0.0.1", urlsplit(url).port or 0):
            pass
    assert caught.value.hint


async def test_a_fault_of_ours_is_in_the_log_and_not_in_the_answer(
    browser: Browser, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fault(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(Catalog, "runs", fault)
    problem = await get(browser, "/api/v1/runs", 500)
    assert (problem["code"], problem["detail"]) == ("internal", "offhost failed unexpectedly")
    assert "oops" in caplog.text
