"""A process with both doors, room for two messages of 4 MiB at once, and an engine that takes its time: HOME PACKAGE"""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tiny_package import serving

from medserve.app import build
from medserve.serving.address import Address
from medserve.serving.asgi import Limits
from medserve.serving.footprint import few_arenas
from medserve.serving.oip.door import GrpcDoor
from medserve.settings import Settings

MIB = 2**20
LIMITS = Limits(max_upload_bytes=4 * MIB, max_inflight_bytes=16 * MIB)

if __name__ == "__main__":
    few_arenas()
    application = build(Settings(home=Path(sys.argv[1])), [Path(sys.argv[2])], limits=LIMITS, threads=1)
    model = application.registry.find("tiny", None).model
    score = model.score
    model.score = lambda images: (time.sleep(0.1), score(images))[1]
    door = GrpcDoor(application, Address(port=0))
    with serving(application, None, door) as port:
        sys.stdout.write(json.dumps({"http": port, "grpc": door.url}) + "\n")
        sys.stdout.flush()
        sys.stdin.read()
