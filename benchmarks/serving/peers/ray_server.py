"""Ray Serve: one replica, its own batching, the body as it is to /."""

import signal

import common as m
import numpy as np
import ray
from ray import serve


@serve.deployment(num_replicas=1, max_ongoing_requests=64, max_queued_requests=256, ray_actor_options={"num_cpus": 0.5})
class Classifier:
    def __init__(self):
        m.load()

    @serve.batch(max_batch_size=m.MAX_BATCH, batch_wait_timeout_s=m.MAX_WAIT_S)
    async def batched(self, bodies):
        return [{"scores": scores.tolist()} for scores in m.run(np.stack(bodies))]

    async def __call__(self, request):
        if m.KIND == "row":
            return await self.batched(m.row((await request.json())["inputs"]))
        return await self.batched(m.decode(await request.body()))


if __name__ == "__main__":
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
    serve.start(http_options={"host": "127.0.0.1", "port": m.PORT}, logging_config={"enable_access_log": False})
    serve.run(Classifier.bind(), route_prefix="/")
    signal.sigwait([signal.SIGTERM, signal.SIGINT])
    serve.shutdown()
    ray.shutdown()
