"""Ctrl-C while a command line of this package is still loading ends it in one line, however early it comes.

A module that is interrupted while it is imported may swallow the exception, or turn it into another, or abort: NumPy
and PyTorch do all three. So Ctrl-C in an import raises nothing: it ends the program. Written by hand, with the standard
library alone, since it must be there before the rest. A run that trains has a handler of its own, which wins
(`training.processes.interruptible`); in programs that only import this package nothing is changed.
"""
import os, signal, sys # nothing slow

programs = tuple(f'hardcl_{k}' for k in ('train', 'compare', 'diagnose', 'experiment', 'progress'))
undo:list = [] # functions: what must be put in order before the program ends

def _end():
    "Put things in order, say so in one line, and end."
    for f in undo: f()
    if os.environ.get('RANK', '0')=='0': os.write(2, b'Stopped.\n')
    os._exit(128+signal.SIGINT)

def _interrupt(signum, frame):
    "Raise `KeyboardInterrupt`; within an import, end."
    while frame and not frame.f_code.co_filename.startswith('<frozen importlib'): frame = frame.f_back
    if frame: _end()
    raise KeyboardInterrupt

def _unhandled(kind, e, trace):
    "For `sys.excepthook`: Ctrl-C is no error."
    if issubclass(kind, KeyboardInterrupt): _end()
    sys.__excepthook__(kind, e, trace)

def _is_program(words, asked):
    "Does a command line of ours run? Until Python has found the module of `python -m`, -m stands in its place."
    name = words[0].replace('\\', '/').split('/')[-1] if words else ''
    ours = any(w.startswith('hardcl_nb.') for w in asked)
    return name.removesuffix('.exe').removesuffix('-script.py') in programs or name=='-m' and ours

def begin() -> None:
    "In a command line of ours, handle Ctrl-C; where it is ignored, as under nohup, it stays so."
    free = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not free or not _is_program(sys.argv, sys.orig_argv): return
    signal.signal(signal.SIGINT, _interrupt)
    sys.excepthook = _unhandled
