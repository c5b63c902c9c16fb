"""BentoML: `bentoml serve bentoml_server:Classifier`; rows as JSON {"rows": [...]}, pictures as multipart `images`."""

import bentoml
import common as m
import numpy as np
from PIL import Image as PILImage

LATENCY = {
    "max_batch_size": m.MAX_BATCH,
    "max_latency_ms": max(1, round(m.MAX_WAIT_S * 1e3)) if m.MAX_WAIT_S else 10000,
}

if m.KIND == "row":

    @bentoml.service(workers=1, traffic={"timeout": 30}, logging={"access": {"enabled": False}})
    class Classifier:
        def __init__(self) -> None:
            m.load()

        @bentoml.api(batchable=True, **LATENCY)
        def classify(self, rows: list[dict[str, float]]) -> list[list[float]]:
            return m.run(np.stack([m.row(one) for one in rows])).tolist()

else:

    @bentoml.service(workers=1, traffic={"timeout": 30}, logging={"access": {"enabled": False}})
    class Classifier:
        def __init__(self) -> None:
            m.load()

        @bentoml.api(batchable=True, **LATENCY)
        def classify(self, images: list[PILImage.Image]) -> list[list[float]]:
            return m.run(np.stack([m.picture(one) for one in images])).tolist()
