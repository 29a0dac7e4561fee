# SPDX-License-Identifier: GPL-2.0-or-later
"""The live view: on a terminal with curses, else a line for each block."""

import asyncio
import contextlib
import curses
import os
import signal
import time

from gmem.command import GmemError
from gmem.size import rounded

from . import draw

STDIN, STDOUT = 0, 1
SLOW = 2                    # seconds without an answer that are worth a word
EMPTY_READS = 8             # that many, and the terminal is gone
SIGNALS = {signal.SIGINT: 'interrupted', signal.SIGTERM: 'terminated',
           signal.SIGHUP: 'the terminal is gone'}
COLOURS = {'shared': curses.COLOR_CYAN, 'private': curses.COLOR_RED,
           'mixed': curses.COLOR_YELLOW, 'bad': curses.COLOR_RED}
COLOURS_256 = {'shared': 74, 'private': 166, 'mixed': 227, 'bad': 203}
FALLBACK = {'title': curses.A_BOLD, 'chosen': curses.A_BOLD,
            'bad': curses.A_BOLD}


class Stop(GmemError):
    """The user has seen enough."""

    def __init__(self, text, status):
        super().__init__(text)
        self.status = status


class Screen:
    """A terminal in curses' hands; restored on exit, whatever happens."""

    def __init__(self):
        self.window = None
        self.styles = dict(FALLBACK)

    def __enter__(self):
        self.window = curses.initscr()
        curses.noecho()
        curses.cbreak()
        self.window.keypad(True)
        self.window.nodelay(True)
        # A stopped client would make QEMU store what it cannot send
        signal.signal(signal.SIGTSTP, signal.SIG_IGN)
        with contextlib.suppress(curses.error):
            curses.curs_set(0)
        if not os.environ.get('NO_COLOR'):
            with contextlib.suppress(curses.error):
                self._colours()
        return self

    def __exit__(self, *exc):
        with contextlib.suppress(curses.error):
            curses.curs_set(1)
        with contextlib.suppress(curses.error):
            curses.endwin()

    def _colours(self):
        """Where there are some."""
        curses.start_color()
        if not curses.has_colors():
            return
        curses.use_default_colors()
        colours = COLOURS_256 if curses.COLORS >= 256 else COLOURS
        for number, (style, colour) in enumerate(colours.items(), 1):
            curses.init_pair(number, colour, -1)
            self.styles[style] = curses.color_pair(number)

    def resize(self):
        """The terminal has another size."""
        with contextlib.suppress(OSError, curses.error):
            columns, lines = os.get_terminal_size(STDOUT)
            if columns and lines:
                curses.resizeterm(lines, columns)
        self.window.clear()

    def size(self):
        """Columns and lines."""
        height, width = self.window.getmaxyx()
        return width, height

    def key(self):
        """The next key, or -1."""
        try:
            return self.window.getch()
        except curses.error:
            return -1

    def show(self, lines):
        """Draw all."""
        self.window.erase()
        for y, line in enumerate(lines):
            x = 0
            for text, style in line:
                # The last column of the last line is an error, and drawn
                with contextlib.suppress(curses.error):
                    self.window.addstr(y, x, text, self.styles.get(style, 0))
                x += len(text)
        self.window.refresh()


class Plain:
    """Lines, for what cannot move a cursor."""

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        pass

    def show(self, vm):
        """One line for each block."""
        clock = time.strftime('%H:%M:%S')
        if not vm.blocks:
            print(f'{clock}  {draw.NO_BLOCKS}', flush=True)
        for block in vm.blocks:
            info = block.info
            pages = info['huge-pages'][-1:] or [{'size': 0, 'mixed': 0}]
            parts = info['listeners']
            print(f"{clock}  {block.name}  shared "
                  f"{rounded(info['shared-bytes'])}  private "
                  f"{rounded(info['private-bytes'])}  to private/s "
                  f"{draw.rate(block, ('to-private', 'bytes'), rounded)}  "
                  "to shared/s "
                  f"{draw.rate(block, ('to-shared', 'bytes'), rounded)}  "
                  f"{rounded(pages[0]['size'])} mixed {pages[0]['mixed']}  "
                  f"extents {sum(x['extents'] for x in parts)}  "
                  f"splits {sum(x['splits'] for x in parts)}  "
                  f"failures {block.failures()}", flush=True)


async def wait(event, seconds):
    """Until the event, which is also set after some seconds."""
    # asyncio.wait_for() forgets to be cancelled if both come together
    timer = asyncio.get_running_loop().call_later(seconds, event.set)
    try:
        await event.wait()
    finally:
        timer.cancel()


def on_signals(end):
    """Call END with the reason when a signal says to stop."""
    loop = asyncio.get_running_loop()
    for number, text in SIGNALS.items():
        loop.add_signal_handler(
            number, lambda n=number, t=text: end(Stop(t, 128 + n)))


async def first_of(jobs, stop):
    """Until one of these jobs ends, or the future STOP, whose reason goes
    first if both have ended: it is the user's wish."""
    tasks = [asyncio.ensure_future(job) for job in jobs] + [stop]
    try:
        done, _ = await asyncio.wait(
            tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    (stop if stop in done else done.pop()).result()


class Live:
    """Polls and draws until something ends it."""

    def __init__(self, poller, args, glyphs):
        self.poller = poller
        self.view = draw.View()
        self.view.block = args.block
        self.interval = args.interval
        self.glyphs = glyphs
        self.wake = asyncio.Event()     # draw now
        self.polled = asyncio.Event()   # there is something to draw
        self.next = asyncio.Event()     # another block was chosen
        self.stop = asyncio.get_running_loop().create_future()
        self.empty_reads = 0

    def end(self, error):
        """Stop with this; the first reason counts."""
        if not self.stop.done():
            self.stop.set_exception(error)

    def on_key(self, screen):
        """Keys have come."""
        key = screen.key()
        self.empty_reads = self.empty_reads + 1 if key == -1 else 0
        if self.empty_reads >= EMPTY_READS:
            self.end(Stop('the terminal is gone', 129))
        vm, view = self.poller.vm, self.view
        while key != -1:
            if key in (ord('q'), ord('Q')):
                self.end(Stop('', 0))
            elif key in (curses.KEY_DOWN, ord('j'), ord('\t')):
                view.choose(vm, 1)
                self.next.set()
            elif key in (curses.KEY_UP, ord('k')):
                view.choose(vm, -1)
                self.next.set()
            elif key in (ord('+'), ord('=')):
                view.zoom = min(view.zoom + 1, 20)
            elif key == ord('-'):
                view.zoom = max(view.zoom - 1, -20)
            elif key in (curses.KEY_NPAGE, ord(' ')):
                view.scroll += view.page
            elif key == curses.KEY_PPAGE:
                view.scroll -= view.page
            elif key == curses.KEY_HOME:
                view.scroll = 0
            key = screen.key()
        self.wake.set()

    async def events(self):
        """Take what QEMU tells by itself."""
        async for event in self.poller.monitor.events():
            self.poller.vm.event(event, time.strftime('%H:%M:%S'))

    async def poll(self):
        """All blocks in each interval, the chosen one's map meanwhile."""
        while True:
            await self.poller.update()
            # So that there is time for the map, however slow the answer was
            end = time.monotonic() + self.interval
            self.polled.set()
            self.wake.set()
            vm = self.poller.vm
            while time.monotonic() < end:
                self.next.clear()
                index = self.view.chosen(vm)
                if index is not None:
                    await self.poller.read_map(
                        vm.blocks[index],
                        lambda: self.next.is_set() or time.monotonic() > end)
                    self.wake.set()
                await wait(self.next, max(end - time.monotonic(), 0))

    def status(self):
        """A word if QEMU is slow."""
        sent_at = self.poller.sent_at
        waited = time.monotonic() - sent_at if sent_at else 0
        return f'no answer from QEMU for {waited:.0f} s' \
            if waited > SLOW else ''

    async def draw(self, screen):
        """On a terminal: at once, and now and then."""
        source = self.poller.monitor.name
        while True:
            await wait(self.wake, 1)
            self.wake.clear()
            screen.show(draw.screen(self.poller.vm, self.view, screen.size(),
                                    self.glyphs, time.monotonic(), source,
                                    self.status()))

    async def print(self, plain):
        """On anything else: after each answer."""
        while True:
            await self.polled.wait()
            self.polled.clear()
            plain.show(self.poller.vm)

    async def run(self):
        """Until the first task ends, which none does by itself."""
        loop = asyncio.get_running_loop()
        on_signals(self.end)
        with Screen() if can_curses() else Plain() as screen:
            jobs = [self.poll(), self.events(),
                    self.poller.monitor.gone()]
            if isinstance(screen, Screen):
                loop.add_signal_handler(
                    signal.SIGWINCH,
                    lambda: (screen.resize(), self.wake.set()))
                loop.add_reader(STDIN, self.on_key, screen)
                jobs.append(self.draw(screen))
            else:
                jobs.append(self.print(screen))
            try:
                await first_of(jobs, self.stop)
            finally:
                loop.remove_reader(STDIN)


def can_curses():
    """Whether this terminal can move its cursor."""
    if not os.isatty(STDIN) or not os.isatty(STDOUT):
        return False
    try:
        curses.setupterm(fd=STDOUT)
    except curses.error:
        return False
    return bool(curses.tigetstr('cup'))
