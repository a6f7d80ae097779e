"""scripts/image.py: its list of sub-commands, and a wrong one."""

import importlib
import sys

import pytest


def test_every_command_named_exists_and_is_described(load_script, monkeypatch, capsys):
    script = load_script("image")
    monkeypatch.setattr(sys, "argv", ["image.py", "--help"])
    script.main()
    usage = capsys.readouterr().out
    for name, does in script.COMMANDS.items():
        command = importlib.import_module(f"ebm_traj.image.commands.{name}")
        assert command.Args and command.main.__doc__
        assert f"{name}" in usage and does in usage


def test_an_unknown_command_is_refused_naming_those_there_are(load_script, monkeypatch, capsys):
    script = load_script("image")
    for words, found in ((["paint"], "'paint'"), ([], "no command")):
        monkeypatch.setattr(sys, "argv", ["image.py", *words])
        with pytest.raises(SystemExit) as stop:
            script.main()
        assert stop.value.code == 2
        assert f"{found}; accepted are generate, complete" in capsys.readouterr().err
