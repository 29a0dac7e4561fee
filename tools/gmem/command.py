# SPDX-License-Identifier: GPL-2.0-or-later
"""How a command begins and ends: its parser, its messages, its status."""

import argparse
import os
import signal
import sys

from . import VERSION


class GmemError(Exception):
    """One line for the user, and the exit status."""
    status = 1


def make_parser(prog, **options):
    """A parser with --help and --version, without abbreviations."""
    parser = argparse.ArgumentParser(prog=prog, allow_abbrev=False,
                                     add_help=False, **options)
    add_help(parser)
    parser.add_argument('--version', action='version',
                        version=f'{prog} {VERSION}',
                        help='print the version and exit')
    return parser


def add_help(parser):
    """The option --help, in the words of the others."""
    parser.add_argument('-h', '--help', action='help',
                        help='print this help and exit')


def complain(prog, text):
    """A line on stderr, if stderr still has a reader."""
    try:
        print(f'{prog}: {text}', file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def run(prog, function):
    """Call the function; the exit status of the command."""
    status, text = 0, ''
    try:
        if sys.stdout is None:
            raise GmemError('standard output is closed')
        status = function() or 0
        sys.stdout.flush()
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except BrokenPipeError:
        status = 128 + signal.SIGPIPE
    except OSError as err:
        status, text = 1, err.strerror or str(err)
        if err.filename is not None:
            text = f'{err.filename}: {text}'
    except GmemError as err:
        status, text = err.status, str(err)
    if text:
        complain(prog, text)
    if status and sys.stdout:
        # What could not be written must not be tried again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return status
