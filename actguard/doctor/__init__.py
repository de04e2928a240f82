"""`actguard doctor`: is everything in place, and if not, what to do about it.

It looks, and changes nothing: no budget is reserved, no event is sent, nothing is taken from the spool. Every wait is
bounded by one deadline for all.

    findings.py        what a check has found: ok, warning or problem, and how to fix it
    deadline.py        the time that is left
    configuration.py   which settings hold, and where each of them comes from
    connection.py      the way to the gateway: its name, a connection, TLS
    gateway.py         what the gateway answers: that it is one, the key, the clocks
    spool.py           the spool file: can it be used, is it whole, what waits in it
    prices.py          how old the price list is
    sdks.py            which provider SDKs are installed, and whether their calls are counted
    probe.py           a fresh interpreter that makes such a call, to a provider on this machine
    views.py           how findings are shown: lines, colours, JSON
    command.py         the command line
"""
