"""Ten lines from data to an answer, on generated phantoms; README shows them and a test runs them."""

from pathlib import Path

from medserve.data.phantoms import make_phantoms
from medserve.models.signing import Trust
from medserve.road.run import Options
from medserve.road.train import train_package
from medserve.runtime.model import LoadedModel
from medserve.settings import Settings

settings = Settings(home=Path("out/home"))
data = make_phantoms(Path("out/phantoms"), 240)  # or your own folder, .npz or table
options = Options(recipe="residual-quick", epochs=3, audit="none")
result = train_package(data, Path("out/model"), settings=settings, options=options)
auroc = result["metrics"]["auroc"]
model = LoadedModel.open(Path(result["package"]), Trust.load(settings))
answer = model.predict(next(data.glob("images/*.dcm")).read_bytes())
text = f"AUROC {auroc['value']:.2f} [{auroc['low']:.2f}, {auroc['high']:.2f}]; {answer['status']}: {answer['outputs']}"
Path("out/answer.txt").write_text(text)
