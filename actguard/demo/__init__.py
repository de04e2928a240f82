"""`actguard demo`: an agent inside a budget, to watch.

A support agent works on one ticket. It asks a research agent for help, which runs in a scope of its own, goes round in
circles and is stopped by that scope's cap; the support agent goes on, and a third model sums the case up. All calls go
through the real SDKs, by default to a scripted provider on this machine.

    story.py        the ticket, the tools, the instructions
    script.py       what the scripted provider answers
    models.py       three SDKs, one face: a conversation with tools, a streamed text
    sdks.py         which SDKs are here, how their clients are made
    agents.py       the agents: written as a user of ActGuard would write them
    happenings.py   events of the demo's own, published on the same bus
    board.py        telemetry: everything on screen is read off the bus and summed up here
    lines.py        the board as plain lines
    dashboard.py    the board as a live display (needs rich)
    report.py       the breakdown at the end
    command.py      the command line
"""
