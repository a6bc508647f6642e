"""A method that takes its time and notes what it does, and that images of one colour end, hang or fill the memory of."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import signal
import time

import torch
from torch import Tensor

from attribkit.methods import Method


@dataclasses.dataclass(frozen=True)
class Stubborn(Method):
    """The mean of the channels, `seconds` an image later, and no sooner than the file `gate` is gone.

    The file `log` gets a line for each image that is begun.
    """

    name = "stubborn"
    paper = "none"
    cost = "time"

    seconds: float = 0.0
    log: str = ""
    gate: str = ""

    def _maps(self, model, images: Tensor, targets) -> Tensor:
        for image in model.preprocessing.pixels(images.cpu()):
            if self.log:
                note(self.log, image)
            if image.flatten(1).std(1).max() < 1e-3:
                ACTS[tuple(int(value > 0.5) for value in image.mean((1, 2)))]()
            time.sleep(self.seconds)
            while self.gate and os.path.exists(self.gate):
                time.sleep(0.05)
        return images.mean(1)


def note(log: str, image: Tensor) -> None:
    line = hashlib.sha256(image.numpy().tobytes()).hexdigest()[:12]
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def fails() -> None:
    raise ValueError("this image is blue")


def exits() -> None:
    os._exit(0)


def hangs() -> None:
    time.sleep(3600)


def is_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)  # as the system does to a process for which there is no memory


def out_of_memory() -> None:
    torch.empty(2**62, dtype=torch.uint8)


# By colour: red, green, blue, magenta, cyan.
ACTS = {(1, 0, 0): exits, (0, 1, 0): hangs, (0, 0, 1): fails, (1, 0, 1): is_killed, (0, 1, 1): out_of_memory}
