"""A line between two network devices that delays packets and loses some.

What ``tc netem`` does, for kernels that do not have it.
"""

import fcntl
import os
import random
import select
import struct
from collections import deque
from threading import Event, Thread
from time import monotonic

TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4 = 0x01, 0x02
"""From ``linux/if_tun.h``; https://docs.kernel.org/networking/tuntap.html."""

FRAME_BYTES = 1 << 17


def open_tap(device: str, in_bulk: bool = False) -> int:
    """Make a network device whose frames are read from, and written to, the returned file.

    Args:
        device: Its name.
        in_bulk: The packets of a connection come several at once, up to 64 kB, with a header that
            the other device needs: a fast line has too many packets for one by one.
    """
    file = os.open("/dev/net/tun", os.O_RDWR)
    flags = IFF_TAP | IFF_NO_PI | (IFF_VNET_HDR if in_bulk else 0)
    fcntl.ioctl(file, TUNSETIFF, struct.pack("16sH22x", device.encode(), flags))
    if in_bulk:
        fcntl.ioctl(file, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4)
    return file


class BadLine:
    """Carries frames between two devices of :func:`open_tap`.

    Args:
        near: File of one device; what it sends is delayed, and some of it lost.
        far: File of the other; what it sends arrives.
        delay: Seconds.
        loss: Share of the frames, from 0 to 1; which ones is the same each time.

    Attributes:
        lost: Frames.
        carried: Frames, after the delay.
    """

    def __init__(self, near: int, far: int, delay: float, loss: float) -> None:
        self.lost = self.carried = 0
        self._near, self._far = near, far
        self._delay, self._loss = delay, loss
        self._ended = Event()
        self._thread = Thread(target=self._carry, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop, and remove both devices."""
        self._ended.set()
        self._thread.join()
        os.close(self._near)
        os.close(self._far)

    def _carry(self) -> None:
        chance = random.Random(0)  # noqa: S311 - nobody has to be kept from guessing
        underway: deque[tuple[float, bytes]] = deque()
        while not self._ended.is_set():
            wait = underway[0][0] - monotonic() if underway else 0.1
            ready, _, _ = select.select([self._near, self._far], [], [], max(0.0, wait))
            if self._far in ready:
                os.write(self._near, os.read(self._far, FRAME_BYTES))
            if self._near in ready:
                frame = os.read(self._near, FRAME_BYTES)
                if chance.random() < self._loss:
                    self.lost += 1
                else:
                    underway.append((monotonic() + self._delay, frame))
            while underway and underway[0][0] <= monotonic():
                os.write(self._far, underway.popleft()[1])
                self.carried += 1
