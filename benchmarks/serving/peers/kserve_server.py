"""KServe's own Python server: rows as {"instances": [...]}, pictures as they are. It batches only beside Kubernetes."""

import common as m
import numpy as np
from kserve import Model, ModelServer


class Classifier(Model):
    def __init__(self, name):
        super().__init__(name)
        m.load()
        self.ready = True

    def predict(self, payload, headers=None, response_headers=None):
        if m.KIND == "row":
            batch = np.asarray(payload["instances"], np.float32)
        else:
            batch = m.decode(payload)[None]
        return {"predictions": m.run(batch).tolist()}


if __name__ == "__main__":
    ModelServer(http_port=m.PORT, enable_grpc=False, workers=1, access_log_format=None).start([Classifier("m")])
