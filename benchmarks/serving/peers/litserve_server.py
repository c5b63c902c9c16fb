"""LitServe: rows as JSON, pictures as multipart `image` (it takes no raw body)."""

import common as m
import litserve as ls
import numpy as np


class Api(ls.LitAPI):
    def setup(self, device):
        m.load()

    def decode_request(self, request):
        return m.row(request["inputs"]) if m.KIND == "row" else m.decode(request["image"].file.read())

    def batch(self, inputs):
        return np.stack(inputs)

    def predict(self, x):
        return m.run(x)

    def unbatch(self, output):
        return list(output)

    def encode_response(self, output):
        return {"scores": output.tolist()}


if __name__ == "__main__":
    api = Api(max_batch_size=m.MAX_BATCH, batch_timeout=m.MAX_WAIT_S)
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=30)
    server.run(host="127.0.0.1", port=m.PORT, num_api_servers=1, log_level="warning", generate_client_file=False)
