"""mosec: the body as it is, to /inference; rows through its own JSON."""

import common as m
import numpy as np
from mosec import Server, Worker


class Classifier(Worker):
    def __init__(self):
        m.load()

    def deserialize(self, data):
        return m.row(super().deserialize(data)["inputs"]) if m.KIND == "row" else m.decode(data)

    def forward(self, data):
        return [{"scores": scores.tolist()} for scores in m.run(np.stack(data))]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Classifier, num=1, max_batch_size=m.MAX_BATCH, max_wait_time=max(1, round(m.MAX_WAIT_S * 1e3)))
    server.run()
