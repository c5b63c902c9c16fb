"""Plain FastAPI and uvicorn, as everybody's first service: no batching; pictures on its thread pool."""

import common as m
import uvicorn
from fastapi import FastAPI, Request
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool


class Row(BaseModel):
    inputs: dict[str, float]


app = FastAPI()
m.load()


@app.post("/row")
async def row(body: Row):
    return {"scores": m.run(m.row(body.inputs)[None])[0].tolist()}


@app.post("/image")
async def image(request: Request):
    body = await request.body()
    scores = await run_in_threadpool(lambda: m.run(m.decode(body)[None]))
    return {"scores": scores[0].tolist()}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=m.PORT, log_level="warning", access_log=False)
