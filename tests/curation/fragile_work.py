"""Work that dies, hangs or fails when it is told to; in a module of its own, so that workers can import it."""

import os
import signal
import time

from idanim.types import IdanimError


class Fragile:
    """Doubles numbers. Files in `folder` remember across processes how often a number was tried."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, item):
        number, does = item
        with (self.folder / str(number)).open("a") as file:
            file.write("x")
        tried = (self.folder / str(number)).stat().st_size
        if does == "dies" or (does == "dies once" and tried == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if does == "hangs":
            time.sleep(600)
        if does == "fails":
            raise IdanimError(f"{number} is a wrong setting")
        return 2 * number


def make_fragile(folder):
    return Fragile(folder)


def die_at_once(folder):
    os.kill(os.getpid(), signal.SIGKILL)


def fail_at_once(folder):
    raise IdanimError("no models there")
