"""A service in a process of its own, whose engine takes its time: HOME PACKAGE SECONDS (of each case)"""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny_package import serving

from medserve.app import build
from medserve.serving.asgi import Limits
from medserve.serving.footprint import few_arenas, settle
from medserve.settings import Settings

if __name__ == "__main__":
    few_arenas()
    each_s = float(sys.argv[3])
    application = build(Settings(home=Path(sys.argv[1])), [Path(sys.argv[2])], limits=Limits(), threads=1)
    model = application.registry.find("tiny", None).model
    score = model.score
    model.score = lambda images: (time.sleep(each_s * len(images)), score(images))[1]
    settle()
    with serving(application) as port:
        sys.stdout.write(json.dumps({"port": port}) + "\n")
        sys.stdout.flush()
        sys.stdin.read()
