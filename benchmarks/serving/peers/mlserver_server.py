"""MLServer: Open Inference Protocol in JSON; pictures in base64. `mlserver start FOLDER`, with its settings there."""

import common as m
import numpy as np
from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec
from mlserver.types import InferenceResponse


class Classifier(MLModel):
    async def load(self):
        m.load()
        return True

    async def predict(self, payload):
        given = payload.inputs[0]
        if m.KIND == "row":
            batch = NumpyCodec.decode_input(given).astype(np.float32).reshape(-1, len(m.FIELDS))
        else:
            batch = np.stack([m.decode(one) for one in Base64Codec.decode_input(given)])
        scores = m.run(batch)
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("scores", scores)])
