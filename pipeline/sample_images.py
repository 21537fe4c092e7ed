"""Draw pictures of vehicles for demonstrations and tests; they say nothing about the model's accuracy."""

import io
import math
import random
from collections.abc import Callable, Iterator

from PIL import Image, ImageDraw, ImageFilter

Draw = Callable[[ImageDraw.ImageDraw, random.Random], None]

CANVAS = 640
"""Width in pixels to draw at, twice that of the finished picture: reducing it smooths the lines."""
FOG = Image.new("RGB", (CANVAS // 2, CANVAS * 3 // 8), (200, 204, 208))
DARK, GREY, CHROME = (36, 34, 36), (84, 84, 88), (150, 152, 156)


def demo_pictures() -> Iterator[tuple[str, bytes]]:
    """Yield the name and the file of each demo picture; together they lead to every kind of outcome."""
    for subject in (bicycle, motorcycle):
        for number in range(1, 4):
            yield f"{subject.__name__}-{number}.jpg", encoded(picture(subject, seed=number))
    yield "bicycle-in-fog.jpg", encoded(Image.blend(picture(bicycle, seed=4), FOG, 0.78))
    yield "scone.png", encoded(picture(scone, seed=1), "PNG")
    phone = picture(motorcycle, seed=5).resize((4000, 3000), Image.Resampling.BICUBIC)
    yield "from-the-phone.jpg", encoded(phone)
    whole = encoded(picture(bicycle, seed=6))
    yield "upload-broke-off.jpg", whole[: len(whole) // 2]
    yield "route 7/a+b c.png", encoded(picture(bicycle, seed=7), "PNG")


def picture(subject: Draw, seed: int) -> Image.Image:
    """Draw a subject on a street (RGB, 320 by 240 pixels); the seed varies wall, paint and grain."""
    rng = random.Random(seed)  # noqa: S311  draws pictures, not secrets
    canvas = Image.new("RGB", (CANVAS, CANVAS * 3 // 4))
    _street(ImageDraw.Draw(canvas), rng)
    subject(ImageDraw.Draw(canvas), rng)
    grain = Image.frombytes("L", canvas.size, rng.randbytes(canvas.width * canvas.height)).convert("RGB")
    return Image.blend(canvas.filter(ImageFilter.GaussianBlur(0.8)), grain, 0.015).reduce(2)


def encoded(image: Image.Image, kind: str = "JPEG") -> bytes:
    """Return the bytes of an image file."""
    file = io.BytesIO()
    image.save(file, kind, quality=90)
    return file.getvalue()


def _street(draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    wall = tuple(rng.randint(150, 215) for _ in range(3))
    draw.rectangle((0, 0, CANVAS, 330), fill=wall)
    for y in range(0, 330, 30):
        draw.line((0, y, CANVAS, y), fill=tuple(shade - 12 for shade in wall), width=2)
    draw.rectangle((0, 330, CANVAS, CANVAS), fill=(118, 116, 112))
    draw.line((0, 330, CANVAS, 330), fill=(150, 148, 142), width=8)


def bicycle(draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    """Draw a mountain bike from the side."""
    rear, front = (185.0, 295.0), (455.0, 295.0)
    for hub in (rear, front):
        wheel(draw, hub, 95, tyre=16, spokes=20)
    paint = tuple(rng.randint(0, 190) for _ in range(3))
    crank, seat, head = (300.0, 305.0), (262.0, 185.0), (405.0, 180.0)
    for a, b in ((rear, crank), (rear, seat), (seat, crank), (seat, head), (crank, head)):
        draw.line((*a, *b), fill=paint, width=13)
    draw.line((*head, *front), fill=DARK, width=14)
    draw.line((*seat, 252, 140), fill=DARK, width=9)
    draw.rounded_rectangle((212, 128, 295, 146), 8, fill=DARK)
    draw.line((*head, 396, 140), fill=DARK, width=10)
    draw.line((370, 136, 425, 132), fill=DARK, width=12)
    draw.circle(rear, 24, GREY)
    draw.circle(crank, 26, GREY)
    draw.line((185, 273, 300, 281), fill=DARK, width=4)
    draw.line((185, 317, 300, 329), fill=DARK, width=4)
    draw.line((*crank, 322, 352), fill=DARK, width=9)
    draw.line((302, 354, 346, 352), fill=DARK, width=11)


def motorcycle(draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    """Draw a moped from the side."""
    rear, front = (172.0, 293.0), (452.0, 293.0)
    for hub in (rear, front):
        wheel(draw, hub, 97, tyre=29, spokes=7)
    paint = rng.choice([(176, 24, 28), (20, 60, 150), (24, 24, 28), (200, 110, 10)])
    draw.line((377, 150, *front), fill=CHROME, width=10)
    draw.polygon([(363, 160), (399, 156), (396, 283), (347, 293)], fill=paint)
    draw.polygon([(232, 203), (367, 183), (372, 253), (337, 298), (242, 298)], fill=(58, 58, 62))
    for y in range(218, 300, 14):
        draw.line((262, y, 327, y), fill=CHROME, width=5)
    draw.ellipse((316, 134, 387, 183), fill=paint)
    draw.polygon([(112, 148), (152, 133), (336, 143), (346, 183), (172, 188)], fill=DARK)
    draw.polygon([(92, 153), (177, 173), (152, 208), (102, 188)], fill=paint)
    draw.rounded_rectangle((142, 305, 342, 327), 12, fill=(186, 188, 192))
    draw.line([(377, 150), (365, 101), (327, 109)], fill=DARK, width=10, joint="curve")
    draw.line((369, 101, 375, 71), fill=DARK, width=5)
    draw.circle((375, 65), 12, GREY)
    draw.circle((401, 158), 11, (236, 232, 200))
    draw.arc((347, 188, 557, 398), 200, 330, fill=paint, width=14)


def scone(draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    """Draw a scone on a plate."""
    draw.ellipse((110, 300, 530, 440), fill=(240, 240, 236))
    draw.ellipse((150, 312, 490, 420), fill=(226, 226, 222))
    draw.rounded_rectangle((200, 190, 440, 380), 60, fill=(214, 164, 92))
    draw.ellipse((190, 160, 450, 270), fill=(186, 124, 56))
    for _ in range(16):
        angle, reach = rng.uniform(0, math.tau), rng.uniform(0, 1)
        draw.circle(
            (320 + 110 * reach * math.cos(angle), 215 + 40 * reach * math.sin(angle)), 8, (70, 38, 24)
        )


def wheel(draw: ImageDraw.ImageDraw, hub: tuple[float, float], radius: float, tyre: int, spokes: int) -> None:
    """Draw a wheel with its tyre and spokes."""
    for spoke in range(spokes):
        angle = math.tau * spoke / spokes
        rim = (hub[0] + radius * math.cos(angle), hub[1] + radius * math.sin(angle))
        draw.line((*hub, *rim), fill=(150, 150, 154), width=2)
    draw.circle(hub, radius, outline=(28, 28, 30), width=tyre)
    draw.circle(hub, 10, (90, 90, 94))
