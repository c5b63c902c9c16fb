"""The rules of safety that met an answer, and what would change that, in lines: as data and under the picture.

said = rule_lines(answer["safety"])          # [{"label": "ibuprofen", "status": "blocked", "text": "..."}, ...]
png = with_lines(png, said)                  # the same picture with the lines below it
"""

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

WIDTH, HIGH, LETTERS, MOST = 780, 17, 116, 24  # pixels of a picture without evidence and of a line; letters; lines
_INK = {"blocked": (178, 24, 43), "unknown": (178, 24, 43), "limited": (140, 81, 10)}
_GREY = (60, 60, 60)


def rule_lines(held: Mapping[str, Any]) -> list[dict[str, str]]:
    """
    Args:
        held: an `AnswerReview` as plain values.
    """
    found: list[dict[str, str]] = []

    def say(label: str, status: str, text: str) -> None:
        found.append({"label": label, "status": status, "text": " ".join(text.split())})

    if held["status"] == "not-reviewed":
        for label in held["withheld"]:
            say(label, "not-reviewed", "not offered: no facts about the patient were sent, so no rule was asked.")
    for one in held["labels"]:
        label, status = one["label"], one["status"]
        for item in one["items"]:
            what = item["name"] or item["drug"]
            named = "" if what == label else f"{what}: "
            say(label, item["status"], f"{named}{item['status']}. {item['statement']}")
            for word, rules in (("forbidden", item["blocks"]), ("warning", item["warnings"])):
                for rule in rules:
                    say(label, item["status"], f"{word}: {rule['text']} {_of(rule)}")
            for most in item["most"]:
                say(label, item["status"], f"at most {most['value']:g} {most['unit']}: {most['text']} {_of(most)}")
            for lack in item["missing"]:
                say(label, item["status"], f"{lack['code']}: {lack['message']} {lack['next']}")
        for change in one["changes"]:
            if change["facts"]:
                facts = ", ".join(fact.get("name") or fact.get("code", "") for fact in change["facts"])
                needs = "".join(f" {need['next']}" for need in change["needs"])
                say(label, status, f"would be {change['then']} without: {facts}.{needs}")
    return found


def _of(rule: Mapping[str, Any]) -> str:
    fact = rule["fact"].get("name") or rule["fact"].get("code", "")
    return f"[{fact}] rule {rule['rule']} of {rule['source']}, version {rule['version']}; {rule['citation']}."


def with_lines(png: bytes | None, lines: Sequence[Mapping[str, str]]) -> bytes:
    """PNG bytes, RGB. png: None where there is nothing but the lines."""
    from PIL import Image

    above = Image.new("RGB", (WIDTH, 0), "white") if png is None else Image.open(io.BytesIO(png)).convert("RGB")
    out = io.BytesIO()
    below(above, lines).save(out, format="PNG", compress_level=1)  # an advice is to take milliseconds
    return out.getvalue()


def below(above: "Image.Image", lines: Sequence[Mapping[str, str]]) -> "Image.Image":
    """A picture (RGB) with the lines below it."""
    from PIL import Image, ImageDraw, ImageFont

    rows = [(row, _INK.get(one["status"], _GREY)) for one in lines
            for row in textwrap.wrap(f"{one['label']}: {one['text']}", LETTERS, subsequent_indent="    ")]  # fmt: skip
    if len(rows) > MOST:
        rows = [*rows[: MOST - 1], (f"... and {len(rows) - MOST + 1} further lines: see the data.", _GREY)]
    width, top = max(WIDTH, above.width), above.height
    image = Image.new("RGB", (width, top + 34 + HIGH * len(rows)), "white")
    if top:
        image.paste(above, ((width - above.width) // 2, 0))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=12)
    draw.line([(10, top + 4), (width - 10, top + 4)], fill=(200, 200, 200))
    draw.text((12, top + 9), "Rules of safety, which no model can override", fill=_GREY, font=font)
    for i, (row, colour) in enumerate(rows):
        draw.text((12, top + 27 + i * HIGH), row, fill=colour, font=font)
    return image
