"""Lanes in which load does not wait for answers: Poisson arrivals at shares of capacity, and four times too much.

A step is played once; its figures carry no interval, and its p99 is that of some hundreds of answers.
"""

import asyncio
import time
from typing import Any

import uvloop

from .lanes import BACK_S, HEAVY_CONNECTIONS, LIGHT_CONNECTIONS, REFUSAL_MS, Arena, Plan, single
from .load import Tally, opened, poisson
from .machine import Watch
from .servers import Ours, Server, Setup

SHARES = (0.3, 0.5, 0.7, 0.9, 1.1)
NORMAL = 0.9  # of capacity: what p99 under overload is measured by
TOO_MUCH = 4.0
AFTER = 0.3  # of capacity, once the overload is over
WINDOW_S = 1.0
MOST_RATE = 3000.0  # a second: what the generator sends without waiting for itself


def open_loop(plan: Plan) -> dict[str, Any]:
    """Poisson arrivals at 30 to 110 % of capacity, then four times capacity, then 30 % again."""
    steps: dict[str, list[dict[str, Any]]] = {}
    goals: list[dict[str, Any]] = []
    for name, setup, connections in (
        ("table, JSON", plan.table, LIGHT_CONNECTIONS),
        ("DenseNet-121, PNG", plan.chest("png"), HEAVY_CONNECTIONS),
    ):
        with Arena(plan, connections) as arena:
            arena.add(Ours(setup, name=name, home=plan.home("durable")), warm=4)
            capacity = arena.block(name)["per_s"]
            lone_ms = arena.block(name, connections=1)["p50_ms"]
            server = arena.servers[name]
            server.wake()
            steps[name], met = _steps(plan, server, setup, name, capacity, lone_ms)
            goals += met
    return {"title": open_loop.__doc__ or "", "steps": steps, "goals": goals, "levels": {}}


def _steps(
    plan: Plan, server: Server, setup: Setup, name: str, capacity: float, lone_ms: float
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    seconds = max(6, plan.seconds) if plan.quick else max(20, plan.seconds)
    rows, p99 = [], {}
    for share in SHARES:
        if share * capacity > MOST_RATE:
            plan.tell(f"{name} {share:.0%}: {share * capacity:.0f}/s is more than the generator sends; left out")
            continue
        with Watch(server.pid) as seen:
            found = opened(server.asks, server.port, rate=share * capacity, seconds=seconds, seed=1).summary()
        p99[share] = found["p99_ms"] or float("inf")
        rows.append({"share": share, "rate": round(share * capacity, 1), **found, **seen.found})
        plan.tell(f"{name} {share:.0%} of {capacity:.0f}/s: p50 {found['p50_ms']}, p99 {found['p99_ms']} ms, "
                  f"{found['refused']} refused, {found['failed']} failed")  # fmt: skip
        time.sleep(1)
    goals = [single(f"{name}: failed, neither answered nor refused", sum(row["failed"] for row in rows), 0, most=True)]
    if 0.7 in p99:
        goals.append(single(f"{name}: p99 at 70 %, of the lone {lone_ms:.3g} ms", p99[0.7] / lone_ms, 3.0, most=True))
    if NORMAL in p99 and TOO_MUCH * capacity <= MOST_RATE:
        goals += _overload(plan, server, name, capacity, seconds, p99, rows)
    return rows, goals


def _overload(
    plan: Plan, server: Server, name: str, capacity: float, seconds: float, p99: dict[float, float],
    rows: list[dict[str, Any]],
) -> list[dict[str, Any]]:  # fmt: skip
    burst, after = uvloop.run(_burst(server, capacity, seconds))
    over, rest, back = burst.summary(), after.summary(), _back(after, p99[AFTER])
    rows.append({"share": TOO_MUCH, "rate": round(TOO_MUCH * capacity, 1), **over})
    rows.append({"share": AFTER, "rate": round(AFTER * capacity, 1), "back_s": back, **rest})
    plan.tell(f"{name} overload: p99 {over['p99_ms']} ms, {over['refused']} refused in {over['refusal_p99_ms']} ms, "
              f"back after {back} s")  # fmt: skip
    refusal = over["refusal_p99_ms"]
    return [
        single(f"{name}: admitted p99 at 4x, of that at 90 %", (over["p99_ms"] or 1e9) / p99[NORMAL], 2.0, most=True),
        single(f"{name}: p99 of a refusal at 4x, ms", 1e9 if refusal is None else refusal, REFUSAL_MS, most=True),
        single(f"{name}: back to normal, s", back, BACK_S, most=True),
        single(f"{name}: failed at 4x or after", (over["failed"] or 0) + (rest["failed"] or 0), 0, most=True),
    ]


async def _burst(server: Server, capacity: float, seconds: float) -> tuple[Tally, Tally]:
    burst = asyncio.create_task(poisson(server.asks, server.port, rate=TOO_MUCH * capacity, seconds=seconds, seed=2))
    await asyncio.sleep(seconds)  # what was accepted is still being answered: the next load begins now
    after = await poisson(server.asks, server.port, rate=AFTER * capacity, seconds=BACK_S + 5, seed=3)
    return await burst, after


def _back(after: Tally, normal_ms: float) -> float:
    """Seconds until a window's answers are all there, its slowest in 50 within three times the quiet p99."""
    last = 0.0
    end = max(at for _, _, at in after.rows)
    at = 0.0
    while at < end:
        rows = [(s, t) for s, t, sent in after.rows if at <= sent < at + WINDOW_S]
        times = sorted(t for s, t in rows if s == 200)
        slow = times[min(len(times) - 1, int(0.98 * len(times)))] if times else float("inf")
        if any(s != 200 for s, _ in rows) or slow * 1e3 > 3 * normal_ms:
            last = at + WINDOW_S
        at += WINDOW_S
    return last
